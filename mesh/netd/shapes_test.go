package netd

import (
	"bytes"
	"encoding/binary"
	"net"
	"net/netip"
	"slices"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/redoubt-cluster/redoubt/mesh/netd/netdpb"
)

// ip4 is a packet with options; which says of what it is a fragment, and its place.
func ip4(from, to string, protocol byte, which uint32, options []byte, payload ...[]byte) []byte {
	body := bytes.Join(payload, nil)
	p := make([]byte, 20, 20+len(options)+len(body))
	p[0], p[8], p[9] = 0x45+byte(len(options)/4), 64, protocol
	binary.BigEndian.PutUint16(p[2:], uint16(20+len(options)+len(body)))
	binary.BigEndian.PutUint32(p[4:], which)
	s, d := netip.MustParseAddr(from).As4(), netip.MustParseAddr(to).As4()
	copy(p[12:], s[:])
	copy(p[16:], d[:])
	p = append(p, options...)
	var sum uint32
	for i := 0; i < len(p); i += 2 {
		sum += uint32(binary.BigEndian.Uint16(p[i:]))
	}
	for sum > 0xffff {
		sum = sum>>16 + sum&0xffff
	}
	binary.BigEndian.PutUint16(p[10:], ^uint16(sum))
	return append(p, body...)
}

func udpTo(port uint16, length int) []byte {
	b := binary.BigEndian.AppendUint16(nil, 9999)
	b = binary.BigEndian.AppendUint16(b, port)
	return append(binary.BigEndian.AppendUint16(b, uint16(8+length)), 0, 0)
}

// No shape of a packet gets to a node's port that nobody publishes: what stands where
// ports stand is believed in TCP and UDP alone, behind options and in fragments too.
func TestShapesOfPacketsToNodes(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	a := w.box(1)
	req := w.request(a)
	req.Reach = &netdpb.Reach{Nodes: []string{outsideIP}, Published: []string{"udp/8080", "tcp/8080"}}
	w.mustApply(req)
	const open, shut, more = 8080, 9100, 1 << 13
	text := func(name string) []byte { return []byte("<" + name + ">") }
	to := func(name string, protocol byte, options []byte, payload ...[]byte) []byte {
		return ip4(a.ip, outsideIP, protocol, 0, options, append(payload, text(name))...)
	}
	nops := bytes.Repeat([]byte{1}, 8)
	looksOpen := append([]byte{148, 4, 0, 0}, udpTo(open, 0)[:4]...) // a port where it stands without options
	node, _ := netip.MustParseAddr(outsideIP).MarshalBinary()
	route := func(kind byte) []byte { return append([]byte{1, kind, 7, 4}, node...) }
	echo := []byte{8, 0, 0, 0, 0x1f, 0x90, 0x1f, 0x90}
	bad := map[string][][]byte{
		"plain":          {to("plain", unix.IPPROTO_UDP, nil, udpTo(shut, 7))},
		"options":        {to("options", unix.IPPROTO_UDP, nops, udpTo(shut, 9))},
		"posing options": {to("posing options", unix.IPPROTO_UDP, looksOpen, udpTo(shut, 16))},
		"loose route":    {ip4(a.ip, gatewayIP, unix.IPPROTO_UDP, 0, route(131), udpTo(shut, 13), text("loose route"))},
		"strict route":   {ip4(a.ip, otherIP, unix.IPPROTO_UDP, 0, route(137), udpTo(shut, 14), text("strict route"))},
		"echo":           {to("echo", unix.IPPROTO_ICMP, nil, echo)},
		"an echo answer": {to("an echo answer", unix.IPPROTO_ICMP, nil, append([]byte{0}, echo[1:]...))},
		"timestamp":      {to("timestamp", unix.IPPROTO_ICMP, nil, append([]byte{13}, echo[1:]...))},
		"an error":       {to("an error", unix.IPPROTO_ICMP, nil, []byte{3, 4, 0, 0, 0, 0, 2, 0}, udp4(outsideIP, a.ip, "quoted"))},
		"SYN and ACK":    {to("SYN and ACK", unix.IPPROTO_TCP, nil, []byte{0x30, 0x39, 0x23, 0x8c, 0, 0, 0, 1, 0, 0, 0, 1, 0x50, 0x12, 1, 1, 0, 0, 0, 0})},
		"fragments": {ip4(a.ip, outsideIP, unix.IPPROTO_UDP, 1<<16|more, nil, udpTo(shut, 19), []byte("........")),
			ip4(a.ip, outsideIP, unix.IPPROTO_UDP, 1<<16|2, nil, text("fragments"))},
		"over another": {ip4(a.ip, outsideIP, unix.IPPROTO_UDP, 2<<16|more, nil, udpTo(shut, 22), []byte("........")),
			ip4(a.ip, outsideIP, unix.IPPROTO_UDP, 2<<16|more, nil, udpTo(open, 22)), ip4(a.ip, outsideIP, unix.IPPROTO_UDP, 2<<16|2, nil, text("over another"))},
		"a lone fragment":     {ip4(a.ip, outsideIP, unix.IPPROTO_UDP, 3<<16|2, nil, text("a lone fragment"))},
		"to all on the wire":  {ip4(a.ip, "192.0.2.255", unix.IPPROTO_UDP, 0, nil, udpTo(shut, 20), text("to all on the wire"))},
		"to all":              {ip4(a.ip, "255.255.255.255", unix.IPPROTO_UDP, 0, nil, udpTo(shut, 8), text("to all"))},
		"to a group":          {ip4(a.ip, "224.0.0.1", unix.IPPROTO_UDP, 0, nil, udpTo(shut, 12), text("to a group"))},
		"to 169.254.169.254":  {ip4(a.ip, "169.254.169.254", unix.IPPROTO_UDP, 0, nil, udpTo(80, 20), text("to 169.254.169.254"))},
		"to 0.0.0.0":          {ip4(a.ip, "0.0.0.0", unix.IPPROTO_UDP, 0, nil, udpTo(open, 12), text("to 0.0.0.0"))},
		"to 127.0.0.1":        {ip4(a.ip, "127.0.0.1", unix.IPPROTO_UDP, 0, nil, udpTo(open, 14), text("to 127.0.0.1"))},
		"for a node, in IPIP": {to("for a node, in IPIP", 4, nil, udp4(a.ip, outsideIP, "inner"))},
	}
	for name, protocol := range map[string]byte{"SCTP": 132, "DCCP": 33, "UDP lite": 136, "GRE": 47, "ESP": 50, "AH": 51, "IGMP": 2, "OSPF": 89, "VRRP": 112, "L2TP": 115, "none": 255, "hop by hop": 0, "6in4": 41} {
		bad[name] = [][]byte{to(name, protocol, nil, udpTo(open, 12), make([]byte, 12))}
	}
	mac, _ := net.ParseMAC(a.GetMac())
	out, there := w.raw(a.ns, "eth0"), w.raw(w.outside, "eth0")
	var names []string
	send := func(p []byte) {
		out.send(t, ethernet(bridgeMAC(netip.MustParseAddr(gatewayIP)), mac, unix.ETH_P_IP, p))
	}
	for name, packets := range bad {
		names = append(names, name)
		for _, p := range packets {
			send(p)
		}
	}
	good := []string{"good", "good behind options"}
	send(to(good[0], unix.IPPROTO_UDP, nil, udpTo(open, 6)))
	send(to(good[1], unix.IPPROTO_UDP, nops, udpTo(open, 21)))
	send(to("last", unix.IPPROTO_UDP, nil, udpTo(open, 6)))
	seen := slices.Compact(there.until(t, "last", append(names, good...)...)) // the host quotes what it has no use for
	if len(seen) != 3 || seen[0] != good[0] || seen[1] != good[1] {
		t.Errorf("%q arrived", seen)
	}
}
