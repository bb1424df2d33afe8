package overlay

import (
	"fmt"
	"io"
	"net"
	"os"
	"sync"
	"testing"
	"time"

	"golang.org/x/net/icmp"
	"golang.org/x/net/ipv4"
	"golang.org/x/net/ipv6"

	"github.com/redoubt-cluster/redoubt/mesh/netd/internal/kernel"
)

// Two nodes, two boxes on each: ping, TCP and UDP over both families, across the
// nodes and within one.
func TestTwoNodes(t *testing.T) {
	t.Parallel()
	l := newLab(t, 2)
	w := l.network(1)
	boxes := []*box{w.box(l.nodes[0], 2), w.box(l.nodes[0], 3), w.box(l.nodes[1], 4), w.box(l.nodes[1], 5)}
	l.declare(w)
	for _, b := range boxes {
		b.serve()
	}
	var wg sync.WaitGroup
	for _, from := range boxes {
		for _, to := range boxes {
			if from != to {
				wg.Go(func() { from.reaches(to) })
			}
		}
	}
	wg.Wait()
	for _, n := range l.nodes {
		s, err := n.o.State(false)
		if err != nil || len(s.GetNetworks()) != 1 || s.GetNetworks()[0].GetError() != "" || s.GetNetworks()[0].GetMtu() != 1370 ||
			s.GetNetworks()[0].GetLocalEndpoints() != 2 || s.GetNetworks()[0].GetRemoteEndpoints() != 2 {
			t.Errorf("node %d: %v %v", n.i, s, err)
		}
	}
}

// reaches tries everything from one box to another.
func (b *box) reaches(to *box) {
	t := b.lane.lab.t
	t.Helper()
	for _, a := range to.addrs {
		if err := b.ping(a, deadline); err != nil {
			t.Errorf("ping %s → %s: %v", b.addrs[0], a, err)
		}
		for _, proto := range []string{"tcp", "udp"} {
			saw, err := b.ask(proto, a, deadline)
			if err != nil {
				t.Errorf("%s %s → %s: %v", proto, b.addrs[0], a, err)
			} else if saw != b.addrs[0] && saw != b.addrs[len(b.addrs)-1] {
				t.Errorf("%s %s → %s: saw %s", proto, b.addrs[0], a, saw)
			}
		}
	}
}

func (b *box) cannotReach(a string) {
	t := b.lane.lab.t
	t.Helper()
	var wg sync.WaitGroup
	wg.Go(func() {
		if err := b.ping(a, silence); err == nil {
			t.Errorf("ping %s → %s was answered", b.addrs[0], a)
		}
	})
	for _, proto := range []string{"tcp", "udp"} {
		wg.Go(func() {
			if saw, err := b.ask(proto, a, silence); err == nil {
				t.Errorf("%s %s → %s was answered, by %s", proto, b.addrs[0], a, saw)
			}
		})
	}
	wg.Wait()
}

const servedPort = "7000"

// serve answers on all addresses with the address of the one who asks.
func (b *box) serve() {
	t := b.lane.lab.t
	t.Helper()
	serve(t, b.ns)
}

func serve(t testing.TB, ns *os.File) {
	t.Helper()
	var wg sync.WaitGroup
	var l net.Listener
	var p net.PacketConn
	within(t, ns, func() (err error) {
		if l, err = net.Listen("tcp", ":"+servedPort); err != nil {
			return err
		}
		p, err = net.ListenPacket("udp", ":"+servedPort)
		return err
	})
	wg.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			wg.Go(func() {
				defer c.Close()
				c.SetDeadline(time.Now().Add(deadline))
				io.WriteString(c, c.RemoteAddr().(*net.TCPAddr).IP.String())
			})
		}
	})
	wg.Go(func() {
		buf := make([]byte, 64)
		for {
			_, from, err := p.ReadFrom(buf)
			if err != nil {
				return
			}
			p.WriteTo([]byte(from.(*net.UDPAddr).IP.String()), from)
		}
	})
	t.Cleanup(func() { l.Close(); p.Close(); wg.Wait() })
}

// ask returns the address that the other side saw. Of UDP, which may be lost while
// tunnels begin, it asks again.
func (b *box) ask(proto, addr string, patience time.Duration) (saw string, err error) {
	return ask(b.ns, proto, net.JoinHostPort(addr, servedPort), patience)
}

func ask(ns *os.File, proto, addr string, patience time.Duration) (saw string, err error) {
	end := time.Now().Add(patience)
	for {
		err = kernel.InNetns(ns, func() error {
			c, err := net.DialTimeout(proto, addr, time.Until(end))
			if err != nil {
				return err
			}
			defer c.Close()
			c.SetDeadline(end)
			if proto == "udp" {
				c.SetDeadline(time.Now().Add(min(time.Until(end), 500*time.Millisecond)))
				if _, err := c.Write([]byte("?")); err != nil {
					return err
				}
			}
			buf := make([]byte, 64)
			k, err := c.Read(buf)
			saw = string(buf[:k])
			return err
		})
		if err == nil || time.Now().After(end.Add(-10*time.Millisecond)) {
			return saw, err
		}
	}
}

// ping sends echo requests until one is answered.
func (b *box) ping(addr string, patience time.Duration) error { return ping(b.ns, addr, patience) }

func ping(ns *os.File, addr string, patience time.Duration) error {
	return kernel.InNetns(ns, func() error {
		network, proto, kind, reply := "ip4:icmp", 1, icmp.Type(ipv4.ICMPTypeEcho), icmp.Type(ipv4.ICMPTypeEchoReply)
		if net.ParseIP(addr).To4() == nil {
			network, proto, kind, reply = "ip6:ipv6-icmp", 58, ipv6.ICMPTypeEchoRequest, ipv6.ICMPTypeEchoReply
		}
		c, err := net.ListenPacket(network, "")
		if err != nil {
			return err
		}
		defer c.Close()
		end := time.Now().Add(patience)
		buf := make([]byte, 1500)
		for time.Now().Before(end) {
			m := icmp.Message{Type: kind, Body: &icmp.Echo{ID: 7, Seq: 1, Data: []byte(addr)}}
			b, err := m.Marshal(nil)
			if err != nil {
				return err
			}
			if _, err := c.WriteTo(b, &net.IPAddr{IP: net.ParseIP(addr)}); err != nil {
				return err
			}
			c.SetReadDeadline(time.Now().Add(min(time.Until(end), 500*time.Millisecond)))
			for {
				n, from, err := c.ReadFrom(buf)
				if err != nil {
					break
				}
				got, err := icmp.ParseMessage(proto, buf[:n])
				if err == nil && got.Type == reply && from.String() == addr {
					return nil
				}
			}
		}
		return fmt.Errorf("no answer of %s", addr)
	})
}
