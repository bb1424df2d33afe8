package rules

import (
	"net"
	"net/netip"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// What a sandbox sends as somebody else arrives nowhere; the controls are what it
// may send.
func TestNobodySpeaksForAnother(t *testing.T) {
	t.Parallel()
	l := newLab(t, 2)
	a, b, c := l.nodes[0].box("a"), l.nodes[0].box("b"), l.nodes[1].box("c")
	l.set()
	nobody := netip.MustParseAddr("10.200.0.99")
	outside := netip.MustParseAddr("203.0.113.7")
	strange := net.HardwareAddr{2, 9, 9, 9, 9, 9}
	everybody := net.HardwareAddr{255, 255, 255, 255, 255, 255}
	const n = 5
	for _, to := range []*box{b, c} { // a neighbour, and one at another node
		text := func(name string) string { return canary + " " + name }
		v6 := func(mac net.HardwareAddr, from netip.Addr) func(string) []byte {
			return func(name string) []byte {
				return frame(mac, portMAC, unix.ETH_P_IPV6, udp(from, to.addr6, 7001, 7001, text(name)))
			}
		}
		v4 := func(mac net.HardwareAddr, from netip.Addr) func(string) []byte {
			return func(name string) []byte {
				return frame(mac, portMAC, unix.ETH_P_IP, udp(from, to.addr4, 7001, 7001, text(name)))
			}
		}
		cases := []struct {
			name    string
			frame   func(string) []byte
			arrives int
		}{
			{"control", v4(a.mac, a.addr4), n},
			{"control, IPv6", v6(a.mac, a.addr6), n},
			{"another's MAC", v4(c.mac, a.addr4), 0},
			{"a MAC of nobody, IPv6", v6(strange, a.addr6), 0},
			{"another's address", v4(a.mac, c.addr4), 0},
			{"another's address, IPv6", v6(a.mac, c.addr6), 0},
			{"another's MAC and address", v4(b.mac, b.addr4), 0},
			{"a router's MAC, a remote endpoint's address", v4(l.nodes[1].router, c.addr4), 0},
			{"an address of nobody", v4(a.mac, nobody), 0},
			{"an address outside the network", v4(a.mac, outside), 0},
			{"the gateway's", v4(a.mac, gateway4), 0},
			{"the gateway's, IPv6", v6(a.mac, gateway6), 0},
			{"to everybody's MAC", func(name string) []byte {
				return frame(a.mac, everybody, unix.ETH_P_IP, udp(a.addr4, to.addr4, 7001, 7001, text(name)))
			}, 0},
			{"ARP", func(name string) []byte {
				return frame(a.mac, everybody, unix.ETH_P_ARP, append(arp(a, gateway4), text(name)...))
			}, 0},
			{"not IP", func(name string) []byte { return frame(a.mac, portMAC, 0x88b5, []byte(text(name))) }, 0},
		}
		ear := to.ear()
		var frames [][]byte
		for _, x := range cases {
			for range n {
				frames = append(frames, x.frame(x.name))
			}
		}
		// What may pass is sent last: when it has come, all has.
		a.sends(append(frames, v4(a.mac, a.addr4)("the end"))...)
		got := map[string]int{}
		if ear.hears(1, deadline, func(f []byte) bool {
			_, name, _ := strings.Cut(string(f), canary+" ")
			got[name]++
			return name == "the end"
		}) != 1 {
			t.Fatal("the last one did not arrive")
		}
		for _, x := range cases {
			if got[x.name] != x.arrives {
				t.Errorf("to %s, %s: %d of %d arrived, want %d", to.task, x.name, got[x.name], n, x.arrives)
			}
		}
	}
	_, dropped := l.nodes[0].counters()
	if dropped[droppedSpoofed] < 80 || dropped[droppedMulticast] < 10 || dropped[droppedARP] < 10 {
		t.Errorf("not counted: %v", dropped)
	}
	if _, dropped := l.nodes[1].counters(); dropped[droppedUplink] != 0 {
		t.Errorf("some left the node: %v", dropped)
	}
}

// arp asks for the address.
func arp(b *box, want netip.Addr) []byte {
	p := []byte{0, 1, 8, 0, 6, 4, 0, 1}
	p = append(append(p, b.mac...), b.addr4.AsSlice()...)
	return append(append(p, 0, 0, 0, 0, 0, 0), want.AsSlice()...)
}

// Nobody answers ARP or neighbour solicitations.
func TestNoAnswersToNeighbourDiscovery(t *testing.T) {
	t.Parallel()
	l := newLab(t, 1)
	a := l.nodes[0].box("a")
	l.set()
	ear := a.ear()
	solicit := append([]byte{135, 0, 0, 0, 0, 0, 0, 0}, gateway6.AsSlice()...)
	a.sends(frame(a.mac, portMAC, unix.ETH_P_ARP, arp(a, gateway4)),
		frame(a.mac, portMAC, unix.ETH_P_IPV6, ip(a.addr6, gateway6, unix.IPPROTO_ICMPV6, transportSum(a.addr6, gateway6, unix.IPPROTO_ICMPV6, 2, solicit))))
	answer := func(f []byte) bool {
		return string(f[12:14]) == "\x08\x06" || string(f[12:14]) == "\x86\xdd" && len(f) > 54 && f[54] == 136
	}
	if n := ear.hears(1, silence, answer); n > 0 {
		t.Error("there was an answer")
	}
	if !a.echoes(gateway6, deadline) {
		t.Error("the gateway does not answer at all")
	}
}

// A worker that was taken over sends what it likes on the wire: the other node
// takes from it what belongs to it.
func TestARootedNodeSpeaksForItsOwn(t *testing.T) {
	t.Parallel()
	l := newLab(t, 3)
	a, b, c := l.nodes[0].box("a"), l.nodes[1].box("b"), l.nodes[2].box("c")
	l.set()
	mallory, victim := l.nodes[1], l.nodes[0]
	ear := a.ear()
	for _, x := range []struct {
		name     string
		mac      net.HardwareAddr
		from, to netip.Addr
		arrives  bool
	}{
		{"control", mallory.router, b.addr4, a.addr4, true},
		{"control, IPv6", mallory.router, b.addr6, a.addr6, true},
		{"as another node's endpoint", mallory.router, c.addr4, a.addr4, false},
		{"as another node", l.nodes[2].router, b.addr4, a.addr4, false},
		{"as the victim itself", victim.router, a.addr4, a.addr4, false},
		{"as the gateway", mallory.router, gateway4, a.addr4, false},
		{"as the gateway, IPv6", mallory.router, gateway6, a.addr6, false},
		{"back to the third node", mallory.router, b.addr4, c.addr4, false},
	} {
		t.Run(x.name, func(t *testing.T) {
			kind := uint16(unix.ETH_P_IP)
			if x.from.Is6() {
				kind = unix.ETH_P_IPV6
			}
			hears := ear
			if x.to == c.addr4 {
				hears = c.ear()
			}
			last := "THE END OF IT"
			within(t, mallory.ns, func() error {
				fd, err := packetSocket("vx0")
				if err != nil {
					return err
				}
				defer unix.Close(fd)
				for range 5 {
					if _, err := unix.Write(fd, frame(x.mac, victim.router, kind, udp(x.from, x.to, 7001, 7001, canary))); err != nil {
						return err
					}
				}
				_, err = unix.Write(fd, frame(mallory.router, victim.router, unix.ETH_P_IP, udp(b.addr4, a.addr4, 7002, 7002, last)))
				return err
			})
			got := 0
			if hears != ear {
				ear.hears(1, deadline, endsIn(last))
				got = hears.hears(1, silence, endsIn(canary))
			} else if hears.hears(1, deadline, func(f []byte) bool {
				if endsIn(canary)(f) {
					got++
				}
				return endsIn(last)(f)
			}) != 1 {
				t.Error("the control did not arrive")
			}
			if want := map[bool]int{true: 5}[x.arrives]; got != want {
				t.Errorf("%d of 5 arrived, want %d", got, want)
			}
		})
	}
	_, dropped := victim.counters()
	if dropped[droppedUplink] < 25 || dropped[droppedTransit] < 5 {
		t.Errorf("not counted: %v", dropped)
	}
}

// A fragment with another's address, sent at the right moment with the right
// number, must not become part of the other's packet.
func TestFragmentsArePinnedEach(t *testing.T) {
	t.Parallel()
	l := newLab(t, 2)
	a, mallory, c := l.nodes[0].box("a"), l.nodes[0].box("m"), l.nodes[1].box("c")
	l.set()
	ear := c.ear()
	const moreFragments = 0x2000
	whole := udp(a.addr4, c.addr4, 7001, 7001, "12345678"+canary)[20:]
	send := func(from *box, id uint16, first, rest []byte) {
		a.sends(frame(a.mac, portMAC, unix.ETH_P_IP, ip4fragment(a.addr4, c.addr4, unix.IPPROTO_UDP, id, moreFragments, first)))
		from.sends(frame(from.mac, portMAC, unix.ETH_P_IP, ip4fragment(a.addr4, c.addr4, unix.IPPROTO_UDP, id, 2, rest)))
	}
	send(mallory, 7, whole[:16], whole[16:])
	if n := ear.hears(1, silence, endsIn(canary)); n != 0 {
		t.Error("a packet was completed by somebody else")
	}
	send(a, 8, whole[:16], whole[16:]) // the control
	if n := ear.hears(1, deadline, endsIn(canary)); n != 1 {
		t.Error("a packet in fragments did not arrive")
	}
	if _, dropped := l.nodes[0].counters(); dropped[droppedSpoofed] != 1 {
		t.Errorf("%v", dropped)
	}
}

// The namespace itself answers nothing but echo: no port, no address of the host,
// in no direction.
func TestTheNamespaceItselfIsOutOfReach(t *testing.T) {
	t.Parallel()
	l := newLab(t, 1)
	a := l.nodes[0].box("a")
	l.service("a")
	l.set()
	var ln net.Listener
	within(t, l.nodes[0].ns, func() (err error) { ln, err = net.Listen("tcp", ":9000"); return err })
	defer ln.Close()
	for _, to := range []netip.Addr{gateway4, gateway6} {
		a.silent("tcp", to, 9000)
		a.silent("udp", to, 9000)
	}
	within(t, l.nodes[0].ns, func() error {
		d := net.Dialer{Timeout: silence}
		for _, to := range []netip.Addr{a.addr4, a.addr6, gateway4} {
			if c, err := d.DialContext(t.Context(), "tcp", netip.AddrPortFrom(to, 9000).String()); err == nil {
				c.Close()
				t.Errorf("the namespace reached %s", to)
			}
		}
		return nil
	})
	_, dropped := l.nodes[0].counters()
	if dropped[droppedInput] < 4 || dropped[droppedOutput] < 3 {
		t.Errorf("not counted: %v", dropped)
	}
}

// Nothing passes what Deny has closed.
func TestDeny(t *testing.T) {
	t.Parallel()
	l := newLab(t, 1)
	a, b := l.nodes[0].box("a"), l.nodes[0].box("a")
	b.serve(80)
	if a.echoes(gateway4, silence) || a.echoes(b.addr4, silence) {
		t.Error("an echo came back")
	}
	a.silent("tcp", b.addr4, 80)
	l.set()
	a.reaches("tcp", b.addr4, 80)
	if err := Deny(l.nodes[0].table.nf); err != nil {
		t.Fatal(err)
	}
	a.silent("tcp", b.addr4, 80)
}
