package rules

import (
	"encoding/binary"
	"net"
	"net/netip"
	"time"

	"golang.org/x/sys/unix"
)

const canary = "CANARY-CANARY-CANARY-CANARY-CANARY-CANARY"

// frame is Ethernet around something.
func frame(from, to net.HardwareAddr, kind uint16, payload []byte) []byte {
	return append(binary.BigEndian.AppendUint16(append(append([]byte{}, to...), from...), kind), payload...)
}

// ip is a packet of either family around something of protocol l4.
func ip(from, to netip.Addr, l4 byte, payload []byte) []byte {
	if from.Is6() {
		p := make([]byte, 40)
		p[0], p[6], p[7] = 0x60, l4, 64
		binary.BigEndian.PutUint16(p[4:], uint16(len(payload)))
		copy(p[8:], from.AsSlice())
		copy(p[24:], to.AsSlice())
		return append(p, payload...)
	}
	return ip4fragment(from, to, l4, 1, 0, payload)
}

// ip4fragment is a packet with this in the field of fragments.
func ip4fragment(from, to netip.Addr, l4 byte, id, fragment uint16, payload []byte) []byte {
	p := make([]byte, 20)
	p[0], p[8], p[9] = 0x45, 64, l4
	binary.BigEndian.PutUint16(p[2:], uint16(20+len(payload)))
	binary.BigEndian.PutUint16(p[4:], id)
	binary.BigEndian.PutUint16(p[6:], fragment)
	copy(p[12:], from.AsSlice())
	copy(p[16:], to.AsSlice())
	binary.BigEndian.PutUint16(p[10:], checksum(p))
	return append(p, payload...)
}

// transport fills the checksum at the offset, over the pseudo header as well.
func transportSum(from, to netip.Addr, l4 byte, at int, b []byte) []byte {
	p := append(append([]byte{}, from.AsSlice()...), to.AsSlice()...)
	p = append(p, 0, l4, byte(len(b)>>8), byte(len(b)))
	if l4 == unix.IPPROTO_ICMP {
		p = nil
	}
	binary.BigEndian.PutUint16(b[at:], checksum(append(p, b...)))
	return b
}

func udp(from, to netip.Addr, sport, dport uint16, text string) []byte {
	b := make([]byte, 8, 8+len(text))
	binary.BigEndian.PutUint16(b, sport)
	binary.BigEndian.PutUint16(b[2:], dport)
	binary.BigEndian.PutUint16(b[4:], uint16(8+len(text)))
	return ip(from, to, unix.IPPROTO_UDP, transportSum(from, to, unix.IPPROTO_UDP, 6, append(b, text...)))
}

// icmpError says of a packet that it did not get through.
func icmpError(from, to netip.Addr, kind, code byte, quoted []byte) []byte {
	l4 := byte(unix.IPPROTO_ICMP)
	if from.Is6() {
		l4 = unix.IPPROTO_ICMPV6
	}
	return ip(from, to, l4, transportSum(from, to, l4, 2, append([]byte{kind, code, 0, 0, 0, 0, 0, 0}, quoted...)))
}

func htons(x uint16) uint16 {
	return binary.NativeEndian.Uint16(binary.BigEndian.AppendUint16(nil, x))
}

// packetSocket sends and hears frames on a link.
func packetSocket(link string) (int, error) {
	i, err := net.InterfaceByName(link)
	if err != nil {
		return -1, err
	}
	fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, int(htons(unix.ETH_P_ALL)))
	if err != nil {
		return -1, err
	}
	return fd, unix.Bind(fd, &unix.SockaddrLinklayer{Protocol: htons(unix.ETH_P_ALL), Ifindex: i.Index})
}

// sends puts frames on the sandbox's link as they are.
func (b *box) sends(frames ...[]byte) {
	b.node.lab.t.Helper()
	within(b.node.lab.t, b.ns, func() error {
		fd, err := packetSocket("ov0")
		if err != nil {
			return err
		}
		defer unix.Close(fd)
		for _, f := range frames {
			if _, err := unix.Write(fd, f); err != nil {
				return err
			}
		}
		return nil
	})
}

// An ear hears what arrives at a sandbox's link.
type ear struct{ fd int }

func (b *box) ear() *ear {
	b.node.lab.t.Helper()
	e := new(ear)
	within(b.node.lab.t, b.ns, func() (err error) { e.fd, err = packetSocket("ov0"); return err })
	b.node.lab.t.Cleanup(func() { unix.Close(e.fd) })
	return e
}

// hears counts the frames that match, until there are enough or the time is over.
func (e *ear) hears(enough int, patience time.Duration, match func(f []byte) bool) (n int) {
	buf := make([]byte, 1<<16)
	for end := time.Now().Add(patience); n < enough && time.Now().Before(end); {
		tv := unix.NsecToTimeval(max(time.Until(end).Nanoseconds(), 1000))
		unix.SetsockoptTimeval(e.fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &tv)
		k, from, err := unix.Recvfrom(e.fd, buf, 0)
		if l, ok := from.(*unix.SockaddrLinklayer); err == nil && ok && l.Pkttype != unix.PACKET_OUTGOING && match(buf[:k]) {
			n++
		}
	}
	return n
}

func endsIn(text string) func(f []byte) bool {
	return func(f []byte) bool { return len(f) >= len(text) && string(f[len(f)-len(text):]) == text }
}
