package overlay

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"slices"

	"golang.org/x/sys/unix"

	"github.com/redoubt-cluster/redoubt/mesh/netd/internal/kernel"
)

// readPaths reads what leads packets through the namespace. What is not of the
// form that we make, and not the kernel's own, is returned as what removes it.
func readPaths(s *kernel.Socket, uplink int32) (have *paths, strays []op, err error) {
	r := &reading{uplink: uplink}
	for _, family := range []byte{unix.AF_INET, unix.AF_INET6} {
		routes := kernel.Message{Type: unix.RTM_GETROUTE, Body: append([]byte{family}, make([]byte, unix.SizeofRtMsg-1)...)}
		var got []route
		err := s.DumpAll(routes, func() { got = got[:0] }, func(kind uint16, b []byte) {
			if x, ok := parseRoute(b); ok && kind == unix.RTM_NEWROUTE {
				got = append(got, x)
			}
		})
		if err != nil {
			return nil, nil, fmt.Errorf("read routes: %w", err)
		}
		r.routes = append(r.routes, got...)
	}
	for _, family := range []byte{unix.AF_INET, unix.AF_INET6, unix.AF_BRIDGE} {
		neighbours := kernel.Message{Type: unix.RTM_GETNEIGH, Body: append([]byte{family}, make([]byte, unix.SizeofNdMsg-1)...)}
		var got []neighbour
		err := s.DumpAll(neighbours, func() { got = got[:0] }, func(kind uint16, b []byte) {
			if x, ok := parseNeighbour(b); ok && kind == unix.RTM_NEWNEIGH {
				got = append(got, x)
			}
		})
		if err != nil {
			return nil, nil, fmt.Errorf("read neighbours: %w", err)
		}
		r.neighbours = append(r.neighbours, got...)
	}
	have, strays = r.sort()
	return have, strays, nil
}

type reading struct {
	uplink     int32
	routes     []route
	neighbours []neighbour
}

type route struct {
	family, table, protocol, kind byte
	dst                           netip.Prefix
	link                          int32
	priority                      uint32
	plain                         bool // no gateway, no source, nothing else
}

type neighbour struct {
	family byte
	link   int32
	state  uint16
	flags  byte
	dst    netip.Addr
	mac    []byte
	plain  bool
}

func parseRoute(b []byte) (r route, ok bool) {
	if len(b) < unix.SizeofRtMsg {
		return r, false
	}
	r = route{family: b[0], table: b[4], protocol: b[5], kind: b[7], plain: b[2] == 0 && b[3] == 0}
	var dst []byte
	kernel.EachAttribute(b[unix.SizeofRtMsg:], func(kind uint16, v []byte) {
		switch {
		case kind == unix.RTA_DST:
			dst = v
		case kind == unix.RTA_OIF && len(v) == 4:
			r.link = int32(binary.NativeEndian.Uint32(v))
		case kind == unix.RTA_PRIORITY && len(v) == 4:
			r.priority = binary.NativeEndian.Uint32(v)
		case kind == unix.RTA_TABLE && len(v) == 4:
			if t := binary.NativeEndian.Uint32(v); t > 255 {
				r.plain = false
			}
		case kind == unix.RTA_GATEWAY, kind == unix.RTA_VIA, kind == unix.RTA_MULTIPATH, kind == unix.RTA_SRC, kind == unix.RTA_ENCAP, kind == rtaNexthop:
			r.plain = false
		}
	})
	if dst == nil {
		dst = make([]byte, 4)
		if r.family == unix.AF_INET6 {
			dst = make([]byte, 16)
		}
	}
	a, ok := netip.AddrFromSlice(dst)
	r.dst = netip.PrefixFrom(a, int(b[1]))
	return r, ok
}

const rtaNexthop = 30 // RTA_NH_ID

func parseNeighbour(b []byte) (n neighbour, ok bool) {
	if len(b) < unix.SizeofNdMsg {
		return n, false
	}
	n = neighbour{family: b[0], link: int32(binary.NativeEndian.Uint32(b[4:])), state: binary.NativeEndian.Uint16(b[8:]), flags: b[10], plain: true}
	kernel.EachAttribute(b[unix.SizeofNdMsg:], func(kind uint16, v []byte) {
		switch kind {
		case unix.NDA_DST:
			n.dst, _ = netip.AddrFromSlice(v)
		case unix.NDA_LLADDR:
			n.mac = slices.Clone(v)
		case unix.NDA_PORT, unix.NDA_VNI, unix.NDA_IFINDEX, ndaNexthop:
			n.plain = false
		}
	})
	return n, n.dst.IsValid()
}

const ndaNexthop = 13 // NDA_NH_ID

// isOurs reports whether the route has the form of routeOp; local, whether it
// leads here.
func (r route) isOurs() (ours, local bool) {
	if !r.plain || r.protocol != routeProtocol || r.dst.Bits() != r.dst.Addr().BitLen() {
		return false, false
	}
	usual := uint32(0)
	if r.family == unix.AF_INET6 {
		usual = 1024 // what the kernel makes of none
	}
	if r.priority != usual {
		return false, false
	}
	switch {
	case r.table == unix.RT_TABLE_MAIN && r.kind == unix.RTN_UNICAST:
		return true, false
	case r.table == unix.RT_TABLE_LOCAL && r.kind == unix.RTN_LOCAL && r.link == loopback:
		return true, true
	}
	return false, false
}

func (r *reading) sort() (have *paths, strays []op) {
	have = newPaths()
	broken := make(map[[6]byte]bool)
	for _, x := range r.routes {
		if x.protocol == unix.RTPROT_KERNEL {
			continue
		}
		ours, local := x.isOurs()
		a := x.dst.Addr()
		_, taken := have.addrs[a]
		switch {
		case !ours || taken:
			strays = append(strays, strayRoute(x))
		case local:
			have.addrs[a] = path{link: localLink}
		default:
			have.addrs[a] = path{link: x.link}
		}
	}
	for _, x := range r.neighbours {
		switch {
		case x.state&unix.NUD_PERMANENT == 0 || len(x.mac) != 6:
		case x.family != unix.AF_BRIDGE:
			p, routed := have.addrs[x.dst]
			if !routed || p.link != x.link {
				strays = append(strays, neighbourOp(x.dst, path{link: x.link}, true))
				continue
			}
			p.mac = [6]byte(x.mac)
			have.addrs[x.dst] = p
		case x.link != r.uplink:
		default:
			mac := [6]byte(x.mac)
			switch {
			case broken[mac]:
			case !x.plain || have.nodes[mac].IsValid(): // all that is behind this MAC goes
				broken[mac] = true
				delete(have.nodes, mac)
				strays = append(strays, forwardOp(x.link, mac, netip.Addr{}, true))
			default:
				have.nodes[mac] = x.dst
			}
		}
	}
	return have, strays
}

// strayRoute removes a route that is not ours.
func strayRoute(r route) op {
	b := []byte{r.family, byte(r.dst.Bits()), 0, 0, r.table, r.protocol, unix.RT_SCOPE_NOWHERE, r.kind, 0, 0, 0, 0}
	b = kernel.AppendAttribute(b, unix.RTA_DST, r.dst.Addr().AsSlice())
	if r.link != 0 {
		b = kernel.AppendAttribute(b, unix.RTA_OIF, index(r.link))
	}
	if r.priority != 0 {
		b = kernel.AppendAttribute(b, unix.RTA_PRIORITY, binary.NativeEndian.AppendUint32(nil, r.priority))
	}
	return op{kernel.Message{Type: unix.RTM_DELROUTE, Body: b}, true, r.dst}
}

// isFailed reports whether the message is of a neighbour without a MAC.
func isFailed(b []byte) bool {
	n, ok := parseNeighbour(b)
	return ok && n.state == unix.NUD_FAILED
}
