package fasttap

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"flag"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

var megabytes = flag.Int("fasttap.mb", 2, "megabytes that each connection of the tests carries")

// carry sends random data from one box to the other and compares what arrives.
func carry(t *testing.T, from, to *side, address string, size int) {
	t.Helper()
	client, server := dial(t, from.box, to.box, address)
	client.SetDeadline(time.Now().Add(4 * deadline))
	server.SetDeadline(time.Now().Add(4 * deadline))
	received := make(chan [32]byte)
	go func() {
		h := sha256.New()
		n, err := io.Copy(h, server)
		if err != nil || n != int64(size) {
			t.Errorf("%d of %d bytes arrived: %v", n, size, err)
		}
		received <- [32]byte(h.Sum(nil))
	}()
	h := sha256.New()
	_, err := io.CopyN(io.MultiWriter(client, h), rand.NewChaCha8([32]byte{byte(size)}), int64(size))
	if err != nil {
		t.Errorf("send: %v", err)
	}
	client.Close()
	if got := <-received; got != [32]byte(h.Sum(nil)) {
		t.Error("what arrived is not what was sent")
	}
}

// ping sends one echo request of a size, not to be fragmented, and waits for
// the answer.
func ping(t *testing.T, from *side, address string, size int) error {
	t.Helper()
	network, request, reply, option, level := "ip4:icmp", byte(8), byte(0), unix.IP_MTU_DISCOVER, unix.IPPROTO_IP
	if strings.Contains(address, ":") {
		network, request, reply, option, level = "ip6:ipv6-icmp", 128, 129, unix.IPV6_MTU_DISCOVER, unix.IPPROTO_IPV6
	}
	var c *net.IPConn
	if err := inNetns(from.box, func() (err error) {
		c, err = net.DialIP(network, nil, &net.IPAddr{IP: net.ParseIP(address)})
		return err
	}); err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	raw, err := c.SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	raw.Control(func(fd uintptr) { err = unix.SetsockoptInt(int(fd), level, option, unix.IP_PMTUDISC_DO) })
	if err != nil {
		t.Fatal(err)
	}
	msg := make([]byte, 8+size)
	msg[0], msg[7] = request, 1
	binary.BigEndian.PutUint16(msg[2:], ^slowSum(msg)) // ICMPv6's is the kernel's
	if _, err := c.Write(msg); err != nil {
		return err
	}
	c.SetReadDeadline(time.Now().Add(deadline / 4))
	buf := make([]byte, 1<<16)
	for {
		n, _, err := c.ReadFrom(buf) // Read would give IPv4 with its header
		if err != nil {
			return err
		}
		if buf[0] == reply && n == len(msg) && bytes.Equal(buf[4:n], msg[4:]) {
			return nil
		}
	}
}

// datagrams sends UDP of many lengths back and forth; the large ones travel in
// fragments.
func datagrams(t *testing.T, from, to *side, address string) {
	t.Helper()
	var server, client net.PacketConn
	for _, e := range []struct {
		c     *net.PacketConn
		netns string
		on    string
	}{{&server, to.box, net.JoinHostPort(address, "0")}, {&client, from.box, ":0"}} {
		if err := inNetns(e.netns, func() (err error) {
			*e.c, err = net.ListenPacket("udp", e.on)
			return err
		}); err != nil {
			t.Fatal(err)
		}
		defer (*e.c).Close()
		(*e.c).SetDeadline(time.Now().Add(deadline))
	}
	rnd := rand.NewChaCha8([32]byte{9})
	buf := make([]byte, 1<<16)
	for _, size := range []int{1, 100, 1341, 1342, 1343, 1400, 4000, 30000} {
		sent := make([]byte, size)
		rnd.Read(sent)
		if _, err := client.WriteTo(sent, server.LocalAddr()); err != nil {
			t.Fatal(err)
		}
		n, back, err := server.ReadFrom(buf)
		if err != nil || !bytes.Equal(buf[:n], sent) {
			t.Fatalf("of a datagram of %d bytes %d arrived: %v", size, n, err)
		}
		if _, err := server.WriteTo(sent, back); err != nil {
			t.Fatal(err)
		}
		if n, _, err = client.ReadFrom(buf); err != nil || !bytes.Equal(buf[:n], sent) {
			t.Fatalf("of a datagram of %d bytes %d came back: %v", size, n, err)
		}
	}
}

// TestOverlay carries the traffic of an overlay between kinds of ends that differ
// most; package fabric has each with each.
func TestOverlay(t *testing.T) {
	fast, plain := end{TunnelGSO, true}, end{Stock, false}
	for _, c := range []struct {
		a, b end
		loss bool
	}{
		{a: fast, b: plain},
		{a: end{Batch, true}, b: end{TunnelGSO, false}},
		{a: fast, b: fast, loss: true},
	} {
		t.Run(fmt.Sprintf("%s,%s,loss=%v", c.a, c.b, c.loss), func(t *testing.T) {
			w := newWorld(t, c.a, c.b, 1420)
			size := *megabytes << 20
			if c.loss {
				size /= 4
				for _, s := range w {
					run(t, s.net, "table inet loss { chain c { type filter hook forward priority 0; numgen random mod 1000 < 2 drop; }; }", "nft", "-f", "-")
					run(t, s.node, "table inet loss { chain c { type filter hook input priority 0; udp dport 51820 numgen random mod 1000 < 2 drop; }; }", "nft", "-f", "-")
				}
			}
			for i, address := range []string{"10.77.2.2", "fd77:2::2", "10.77.1.2", "fd77:1::2"} {
				from, to := w[i/2], w[1-i/2]
				carry(t, from, to, address, size)
				if c.loss {
					continue
				}
				datagrams(t, from, to, address)
				header := 28 + 20*(i%2)
				if err := ping(t, from, address, 1370-header); err != nil {
					t.Errorf("an echo that just fits: %v", err)
				}
				if ping(t, from, address, 1371-header) == nil {
					t.Error("an echo that does not fit went through")
				}
			}
			for _, s := range w {
				n := s.dev.Counters()
				t.Logf("side %d, %s: %+v", s.n, s.dev.Mode(), n)
				if n.Unmerged != 0 || n.Refused != 0 {
					t.Errorf("the kernel refused a super-packet, or gave one that was not understood: %+v", n)
				}
				if s.dev.Mode() == TunnelGSO && (n.Cut == 0 || n.Merged == 0) {
					t.Errorf("nothing was cut or merged: %+v", n)
				}
			}
		})
	}
}
