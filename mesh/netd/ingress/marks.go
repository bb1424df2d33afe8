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
	services map[uint32]uint16
	nodes    map[netip.Addr]uint16
	// A number that was given back is not given again before all others were.
	lastService, lastNode uint16
}

func newMarks() *marks {
	return &marks{services: map[uint32]uint16{}, nodes: map[netip.Addr]uint16{}}
}

// keep gives back the numbers of what is not in the plan.
func (m *marks) keep(p *plan) {
	vnis := map[uint32]bool{}
	for _, s := range p.services {
		vnis[s.vni] = true
	}
	for vni := range m.services {
		if !vnis[vni] {
			delete(m.services, vni)
		}
	}
	for node := range m.nodes {
		if !p.entries[node] {
			delete(m.nodes, node)
		}
	}
}

func (m *marks) service(vni uint32) uint16 { return number(m.services, vni, &m.lastService) }
func (m *marks) node(a netip.Addr) uint16  { return number(m.nodes, a, &m.lastNode) }

func number[K comparable](given map[K]uint16, k K, last *uint16) uint16 {
	if n, ok := given[k]; ok {
		return n
	}
	taken := make(map[uint16]bool, len(given))
	for _, n := range given {
		taken[n] = true
	}
	for {
		if *last++; *last != 0 && !taken[*last] {
			given[k] = *last
			return *last
		}
	}
}

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
	m.services[uint32(vni)], m.nodes[node] = service, entry
	m.lastService, m.lastNode = max(m.lastService, service), max(m.lastNode, entry)
}
