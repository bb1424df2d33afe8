package fabric

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/redoubt-cluster/redoubt/mesh/netd/internal/kernel"
)

// echo answers every connection to port 7000 of the node's overlay with what it
// says.
func (n *node) echo() {
	t := n.lab.t
	t.Helper()
	var l net.Listener
	within(t, n.overlay, func() (err error) { l, err = net.Listen("tcp", n.inside()+":7000"); return err })
	ctx, cancel := context.WithCancel(context.Background())
	var running sync.WaitGroup
	running.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			running.Go(func() {
				stop := context.AfterFunc(ctx, func() { c.Close() }) // its end may not come through
				io.Copy(c, c)
				if stop() {
					c.Close()
				}
			})
		}
	})
	t.Cleanup(func() { cancel(); l.Close(); running.Wait() })
}

func (n *node) dial(to *node) (c net.Conn, err error) {
	err = kernel.InNetns(n.overlay, func() error {
		c, err = net.DialTimeout("tcp", to.inside()+":7000", deadline)
		return err
	})
	return c, err
}

// say sends the text and waits for it to come back.
func say(c net.Conn, text string) error {
	c.SetDeadline(time.Now().Add(deadline))
	if _, err := io.WriteString(c, text); err != nil {
		return err
	}
	got := make([]byte, len(text))
	if _, err := io.ReadFull(c, got); err != nil {
		return err
	}
	if string(got) != text {
		return fmt.Errorf("%q came back as %q", text, got)
	}
	return nil
}

func (n *node) reaches(to *node) {
	n.lab.t.Helper()
	c, err := n.dial(to)
	if err == nil {
		defer c.Close()
		err = say(c, "hello")
	}
	if err != nil {
		n.lab.t.Fatalf("node %d to %d: %v", n.i, to.i, err)
	}
}

// A tap sees every frame on the wire.
type tap struct {
	fd         int
	stop, done chan struct{}
	// frames, and those that hold the canary or UDP to port 4789 outside.
	frames, canaries, clear int
}

const canary = "CANARY-8d1f2b7e"

func (l *lab) tap() *tap {
	l.t.Helper()
	x := &tap{stop: make(chan struct{}), done: make(chan struct{})}
	within(l.t, l.wire.NS, func() (err error) {
		x.fd, err = unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, int(htons(unix.ETH_P_ALL)))
		if err != nil {
			return err
		}
		return unix.SetsockoptTimeval(x.fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &unix.Timeval{Usec: 20000})
	})
	go func() {
		defer close(x.done)
		buf := make([]byte, 1<<17)
		for {
			k, _, err := unix.Recvfrom(x.fd, buf, 0)
			if err != nil {
				select {
				case <-x.stop:
					return
				default:
					continue
				}
			}
			x.look(buf[:k])
		}
	}()
	return x
}

// end stops the tap after a while; what was on the wire until then is counted.
func (x *tap) end() {
	time.AfterFunc(silence, func() { close(x.stop) })
	<-x.done
	unix.Close(x.fd)
}

func (x *tap) look(frame []byte) {
	x.frames++
	if bytes.Contains(frame, []byte(canary)) {
		x.canaries++
	}
	if len(frame) >= 38 && frame[12] == 8 && frame[13] == 0 && frame[23] == unix.IPPROTO_UDP && frame[36] == vxlanPort>>8 && frame[37] == vxlanPort&0xff {
		x.clear++
	}
}

func htons(v uint16) uint16 { return v<<8 | v>>8 }

func TestNodesTalkThroughTheTunnelAlone(t *testing.T) {
	l := newLab(t, 3)
	tap := l.tap()
	l.connect()
	l.overlays(4097)
	for _, n := range l.nodes {
		n.echo()
	}
	for _, n := range l.nodes {
		for _, o := range l.others(n) {
			c, err := n.dial(o)
			if err != nil {
				t.Fatalf("node %d to %d: %v", n.i, o.i, err)
			}
			if err := say(c, strings.Repeat(canary, 5000)); err != nil {
				t.Errorf("node %d to %d: %v", n.i, o.i, err)
			}
			c.Close()
		}
	}
	tap.end()
	if tap.frames == 0 || tap.canaries != 0 || tap.clear != 0 {
		t.Errorf("of %d frames on the wire %d hold the canary and %d are VXLAN in clear", tap.frames, tap.canaries, tap.clear)
	}
	s := l.nodes[0].state()
	if s.GetDriver() == "" || s.GetMtu() != 1420 || s.GetListenPort() != 51820 || len(s.GetPeers()) != 2 || s.GetDegraded() != "" || s.GetRepairs() != 0 {
		t.Errorf("%v", s)
	}
	for _, p := range s.GetPeers() {
		if p.HandshakeAgeMs == nil || p.GetReceivedBytes() == 0 || p.GetSentBytes() == 0 || !strings.HasPrefix(p.GetEndpoint(), "192.0.2.") {
			t.Errorf("%v", p)
		}
	}
	for reason, n := range s.GetDropped() {
		// Answers to nobody: the kernel may say that a connection is gone.
		if n > 0 && reason != droppedSent {
			t.Errorf("%d packets dropped as %s", n, reason)
		}
	}
}

// The in-tunnel port is open to peers, and nothing else is.
func TestOnlyTheControlPortIsReached(t *testing.T) {
	l := newLab(t, 2)
	l.connect()
	a, b := l.nodes[0], l.nodes[1]
	for port, reached := range map[string]bool{"7946": true, "7947": false} {
		for _, host := range []string{b.mesh().String(), b.under()} {
			addr := net.JoinHostPort(host, port)
			var srv net.Listener
			within(t, b.ns, func() (err error) { srv, err = net.Listen("tcp", addr); return err })
			err := kernel.InNetns(a.ns, func() error {
				patience := deadline
				if !reached && host == b.mesh().String() {
					patience = silence
				}
				c, err := net.DialTimeout("tcp", addr, patience)
				if err == nil {
					c.Close()
				}
				return err
			})
			if want := reached || host == b.under(); (err == nil) != want {
				t.Errorf("%s: %v, want reached %v", addr, err, want)
			}
			srv.Close()
		}
	}
	if n := a.state().GetDropped()[droppedSent]; n == 0 {
		t.Error("what the sender's own table drops is not counted")
	}
}

// rawUDP sends a datagram from an address that need not be the sender's own.
func rawUDP(ns *os.File, from, to netip.Addr, payload []byte) error {
	return kernel.InNetns(ns, func() error {
		fd, err := unix.Socket(unix.AF_INET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.IPPROTO_RAW)
		if err != nil {
			return err
		}
		defer unix.Close(fd)
		total := 28 + len(payload)
		p := make([]byte, 28, total)
		p[0], p[2], p[3], p[8], p[9] = 0x45, byte(total>>8), byte(total), 64, unix.IPPROTO_UDP
		copy(p[12:], from.AsSlice())
		copy(p[16:], to.AsSlice())
		p[20], p[21], p[22], p[23] = 0xc0, 0, vxlanPort>>8, vxlanPort&0xff
		p[24], p[25] = byte((total-20)>>8), byte((total-20)&0xff)
		return unix.Sendto(fd, append(p, payload...), 0, &unix.SockaddrInet4{Addr: to.As4()})
	})
}
