package ingress

import (
	"encoding/binary"
	"net/netip"
	"strconv"
	"strings"

	"github.com/google/nftables"

	"github.com/redoubt-cluster/redoubt/mesh/netd/internal/kernel"
)

// A mark on a connection says where it came from: its upper half the service,
// which is the way back, and its lower half the entry node.
const (
	serviceMask = 0xffff0000
	nodeMask    = 0x0000ffff
)

// marks are numbers of services, by VNI, and of entry nodes. Connections outlive
// netd and bear them, so a new process reads them from the table of the old one.
type marks struct {
	services numbers[uint32]
	nodes    numbers[netip.Addr]
}

// numbers are given out from 1 on. One that was given back is not given again
// before all others were.
type numbers[K comparable] struct {
	of    map[K]uint16
	taken map[uint16]bool
	last  uint16
}

func newMarks() *marks { return &marks{newNumbers[uint32](), newNumbers[netip.Addr]()} }

func newNumbers[K comparable]() numbers[K] {
	return numbers[K]{of: map[K]uint16{}, taken: map[uint16]bool{}}
}

func (n *numbers[K]) give(k K) uint16 {
	if x, ok := n.of[k]; ok {
		return x
	}
	for n.last++; n.last == 0 || n.taken[n.last]; n.last++ {
	}
	n.set(k, n.last)
	return n.last
}

func (n *numbers[K]) set(k K, x uint16) {
	n.of[k], n.taken[x], n.last = x, true, max(n.last, x)
}

// keep gives back the numbers of what is not to be kept.
func (n *numbers[K]) keep(kept func(K) bool) {
	for k, x := range n.of {
		if !kept(k) {
			delete(n.of, k)
			delete(n.taken, x)
		}
	}
}

// keep gives back the numbers of what is not in the plan.
func (m *marks) keep(p *plan) {
	x := p.indexed()
	m.services.keep(func(vni uint32) bool { return x.vnis[vni] != "" })
	m.nodes.keep(func(a netip.Addr) bool { return x.entries[a] > 0 })
}

func (m *marks) service(vni uint32) uint16 { return m.services.give(vni) }
func (m *marks) node(a netip.Addr) uint16  { return m.nodes.give(a) }

func (m *marks) of(vni uint32, entry netip.Addr) uint32 {
	return uint32(m.service(vni))<<16 | uint32(m.node(entry))
}

// adopt reads the numbers that an earlier process gave, in the calling thread's
// namespace.
func (m *marks) adopt() error {
	return kernel.WithNFT(func(c *nftables.Conn) error {
		there, err := kernel.Exists(c, insideTables[0])
		if err != nil || !there {
			return err
		}
		set, err := c.GetSetByName(insideTables[0], setEntries)
		if err != nil {
			return err
		}
		all, err := c.GetSetElements(set)
		for _, e := range all {
			m.take(e.Key, e.Val)
		}
		return err
	})
}

// take reads one element; what has not the form that we give it is left out.
func (m *marks) take(key, val []byte) {
	if len(key) != 24 || len(val) < 4 {
		return
	}
	name := strings.TrimRight(string(key[:16]), "\x00")
	vni, err := strconv.ParseUint(strings.TrimPrefix(name, uplinkPrefix), 10, 24)
	node := netip.AddrFrom4([4]byte(key[18:22]))
	mark := binary.NativeEndian.Uint32(val)
	service, entry := uint16(mark>>16), uint16(mark&nodeMask)
	if err != nil || service == 0 || entry == 0 || routerMAC(node) != [6]byte(key[16:22]) {
		return
	}
	m.services.set(uint32(vni), service)
	m.nodes.set(node, entry)
}
