package overlay

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"

	"golang.org/x/sys/unix"

	"github.com/redoubt-cluster/redoubt/mesh/netd/internal/kernel"
)

// A path is where an address of the network is: behind an interface, with a MAC
// that nobody is asked for, or in the namespace itself.
type path struct {
	link int32 // index; localLink: here
	mac  [6]byte
}

const localLink = -1

// paths are what leads packets through the namespace of a network: a route and a
// permanent neighbour an address, and the mesh address behind each router MAC.
type paths struct {
	addrs map[netip.Addr]path
	nodes map[[6]byte]netip.Addr
}

func newPaths() *paths {
	return &paths{addrs: map[netip.Addr]path{}, nodes: map[[6]byte]netip.Addr{}}
}

// An op is one message for the kernel, and what it is about.
type op struct {
	kernel.Message
	removes bool
	about   any
}

// differ collects what has to be told to the kernel: removals, which are told
// first, and additions.
type differ struct {
	removals, additions []op
}

// addr makes the path of one address another one; ok says whether there is one.
func (d *differ) addr(a netip.Addr, have path, had bool, want path, wanted bool) {
	if had == wanted && (!had || have == want) {
		return
	}
	sameRoute := had && wanted && have.link == want.link
	// A route of another interface is replaced in one step; only one that leads
	// here is in another table.
	if had && (!wanted || (have.link == localLink) != (want.link == localLink)) {
		d.removals = append(d.removals, routeOp(a, have.link, true))
	}
	if had && have.link != localLink && !sameRoute {
		d.removals = append(d.removals, neighbourOp(a, have, true))
	}
	if wanted && want.link != localLink {
		d.additions = append(d.additions, neighbourOp(a, want, false))
	}
	if wanted && (!sameRoute || have.mac == [6]byte{}) {
		d.additions = append(d.additions, routeOp(a, want.link, false))
	}
}

// all compares everything.
func (d *differ) all(uplink int32, have, want *paths) {
	for a, p := range have.addrs {
		w, ok := want.addrs[a]
		d.addr(a, p, true, w, ok)
	}
	for a, w := range want.addrs {
		if _, had := have.addrs[a]; !had {
			d.addr(a, path{}, false, w, true)
		}
	}
	d.forward(uplink, have.nodes, want.nodes)
}

// forward compares what is behind router MACs.
func (d *differ) forward(uplink int32, have, want map[[6]byte]netip.Addr) {
	for mac, node := range have {
		if w := want[mac]; !w.IsValid() {
			d.removals = append(d.removals, forwardOp(uplink, mac, node, true))
		} else if w != node {
			d.additions = append(d.additions, forwardOp(uplink, mac, w, false))
		}
	}
	for mac, node := range want {
		if !have[mac].IsValid() {
			d.additions = append(d.additions, forwardOp(uplink, mac, node, false))
		}
	}
}

// tell gives the kernel all of it. What is to go and is gone already is fine.
func tell(s *kernel.Socket, ops []op) error {
	messages := make([]kernel.Message, len(ops))
	for i := range ops {
		messages[i] = ops[i].Message
	}
	var first error
	count := 0
	err := s.Do(messages, func(i int, err error) {
		if ops[i].removes && isGone(err) {
			return
		}
		if count++; first == nil {
			first = fmt.Errorf("%s: %w", ops[i].describe(), err)
		}
	})
	if err == nil && count > 1 {
		return fmt.Errorf("%w, and %d more", first, count-1)
	}
	return kernel.OneLine(err, first)
}

func isGone(err error) bool {
	return errors.Is(err, unix.ESRCH) || errors.Is(err, unix.ENOENT) || errors.Is(err, unix.ENODEV) || errors.Is(err, unix.EADDRNOTAVAIL)
}

func (o op) describe() string {
	verb, what := "set", "route to"
	if o.removes {
		verb = "remove"
	}
	if o.Type == unix.RTM_NEWNEIGH || o.Type == unix.RTM_DELNEIGH {
		what = "neighbour"
	}
	return fmt.Sprintf("%s the %s %v", verb, what, o.about)
}

func familyOf(a netip.Addr) byte {
	if a.Is4() {
		return unix.AF_INET
	}
	return unix.AF_INET6
}

func index(link int32) []byte { return binary.NativeEndian.AppendUint32(nil, uint32(link)) }

// routeOp is about the route to one address, out of an interface or to here.
func routeOp(a netip.Addr, link int32, remove bool) op {
	table, kind, scope := byte(unix.RT_TABLE_MAIN), byte(unix.RTN_UNICAST), byte(unix.RT_SCOPE_LINK)
	if link == localLink {
		table, kind, scope, link = unix.RT_TABLE_LOCAL, unix.RTN_LOCAL, unix.RT_SCOPE_HOST, loopback
	}
	if remove {
		scope = unix.RT_SCOPE_NOWHERE
	}
	b := make([]byte, 0, unix.SizeofRtMsg+8+20)
	b = append(b, familyOf(a), byte(a.BitLen()), 0, 0, table, routeProtocol, scope, kind, 0, 0, 0, 0)
	b = kernel.AppendAttribute(b, unix.RTA_DST, a.AsSlice())
	b = kernel.AppendAttribute(b, unix.RTA_OIF, index(link))
	return op{message(unix.RTM_NEWROUTE, unix.RTM_DELROUTE, b, remove), remove, a}
}

// loopback is the index of lo in every namespace.
const loopback = 1

func message(set, remove uint16, body []byte, removes bool) kernel.Message {
	if removes {
		return kernel.Message{Type: remove, Body: body}
	}
	return kernel.Message{Type: set, Flags: unix.NLM_F_CREATE | unix.NLM_F_REPLACE, Body: body}
}

func neighbourHeader(family byte, link int32, state uint16, flags byte) []byte {
	b := make([]byte, 0, unix.SizeofNdMsg+20+12)
	b = append(b, family, 0, 0, 0)
	b = append(b, index(link)...)
	b = binary.NativeEndian.AppendUint16(b, state)
	return append(b, flags, 0)
}

// neighbourOp is about the MAC of one address.
func neighbourOp(a netip.Addr, p path, remove bool) op {
	b := neighbourHeader(familyOf(a), p.link, unix.NUD_PERMANENT, 0)
	b = kernel.AppendAttribute(b, unix.NDA_DST, a.AsSlice())
	if !remove {
		b = kernel.AppendAttribute(b, unix.NDA_LLADDR, p.mac[:])
	}
	return op{message(unix.RTM_NEWNEIGH, unix.RTM_DELNEIGH, b, remove), remove, a}
}

// forwardOp is about the node behind a router MAC.
func forwardOp(uplink int32, mac [6]byte, node netip.Addr, remove bool) op {
	b := neighbourHeader(unix.AF_BRIDGE, uplink, unix.NUD_PERMANENT|unix.NUD_NOARP, unix.NTF_SELF)
	if node.IsValid() {
		b = kernel.AppendAttribute(b, unix.NDA_DST, node.AsSlice())
	}
	b = kernel.AppendAttribute(b, unix.NDA_LLADDR, mac[:])
	return op{message(unix.RTM_NEWNEIGH, unix.RTM_DELNEIGH, b, remove), remove, net.HardwareAddr(mac[:])}
}
