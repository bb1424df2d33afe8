package netd

import (
	"cmp"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"

	"golang.org/x/sys/unix"

	"github.com/redoubt-cluster/redoubt/internal/ident"
	"github.com/redoubt-cluster/redoubt/mesh/netd/internal/pools"
	"github.com/redoubt-cluster/redoubt/mesh/netd/netdpb"
)

// A plan is a checked ApplyRequest. The zero bridge means: nothing is wanted.
type plan struct {
	bridge    netip.Prefix
	endpoints []endpoint
	managers  managers
	pools     pools.Pools
	reach     reach
}

type endpoint struct {
	task, netns string
	mac         [6]byte
	addr        netip.Prefix
	ports       []port
}

type port struct {
	udp               bool
	host              netip.Addr // 0.0.0.0: every address of the node
	published, target uint16
}

func (p port) proto() byte {
	if p.udp {
		return unix.IPPROTO_UDP
	}
	return unix.IPPROTO_TCP
}

func (p port) String() string { return p.hold().String() }

// overlaps reports whether both cannot be published on one node.
func (p port) overlaps(q port) bool { return p.hold().Overlaps(q.hold()) }

// parse checks the request. The error is one of the whole request; what is
// wrong with a single endpoint is in bad, by task, and the endpoint is left out
// of the plan. In a conflict the endpoint that is attached already wins, then
// the one that stands first.
func parse(req *netdpb.ApplyRequest, attached func(task string) bool) (p plan, bad map[string]error, err error) {
	if req.GetBridgeAddress() == "" {
		if len(req.GetEndpoints()) > 0 {
			return plan{}, nil, errors.New("bridge_address is missing: endpoints need the node bridge")
		}
		return plan{}, nil, nil
	}
	if p.bridge, err = parseBridge(req.GetBridgeAddress()); err != nil {
		return plan{}, nil, err
	}
	if p.managers, err = parseManagers(req.GetManagers()); err != nil {
		return plan{}, nil, err
	}
	if p.pools, err = pools.Parse(req.GetPools().GetPrefixes()); err != nil {
		return plan{}, nil, err
	}
	if p.reach, err = parseReach(req.GetReach()); err != nil {
		return plan{}, nil, err
	}
	if n := len(req.GetEndpoints()); n > maxEndpoints {
		return plan{}, nil, fmt.Errorf("%d endpoints exceed the limit of %d for one node", n, maxEndpoints)
	}
	seen := make(map[string]bool)
	for _, e := range req.GetEndpoints() {
		if !ident.Valid(e.GetTaskId()) {
			return plan{}, nil, fmt.Errorf("task_id %.40q is no task id", e.GetTaskId())
		}
		if seen[e.GetTaskId()] {
			return plan{}, nil, fmt.Errorf("task %s has two endpoints: one is allowed", e.GetTaskId())
		}
		seen[e.GetTaskId()] = true
	}
	bad = make(map[string]error)
	c := newClaims(p.bridge)
	for _, first := range []bool{true, false} {
		for _, e := range req.GetEndpoints() {
			if attached(e.GetTaskId()) != first {
				continue
			}
			ep, err := parseEndpoint(e, p.bridge)
			if err == nil {
				err = c.add(ep)
			}
			if err != nil {
				bad[e.GetTaskId()] = err
				continue
			}
			p.endpoints = append(p.endpoints, ep)
		}
	}
	return p, bad, nil
}

func parseBridge(s string) (netip.Prefix, error) {
	p, err := netip.ParsePrefix(s)
	switch {
	case err != nil:
		return p, fmt.Errorf("bridge_address %.60q is no address with prefix length, such as 172.29.0.1/20", s)
	case !p.Addr().Is4():
		return p, fmt.Errorf("bridge_address %s: only IPv4 is supported", p)
	case p.Bits() < minPrefix || p.Bits() > maxPrefix:
		return p, fmt.Errorf("bridge_address %s: the prefix length must be %d to %d", p, minPrefix, maxPrefix)
	case !p.Addr().IsGlobalUnicast():
		return p, fmt.Errorf("bridge_address %s: use a private unicast range", p)
	case !isHost(p):
		return p, fmt.Errorf("bridge_address %s is the network's own or broadcast address", p)
	}
	return p, nil
}

// isHost reports whether the address is neither first nor last of its prefix.
func isHost(p netip.Prefix) bool {
	host := ^uint32(0) >> p.Bits()
	b := p.Addr().As4()
	bits := (uint32(b[0])<<24 | uint32(b[1])<<16 | uint32(b[2])<<8 | uint32(b[3])) & host
	return bits != 0 && bits != host
}

func parseEndpoint(e *netdpb.Endpoint, bridge netip.Prefix) (endpoint, error) {
	ep := endpoint{task: e.GetTaskId(), netns: e.GetNetns()}
	if !ident.Valid(ep.netns) {
		return ep, fmt.Errorf("netns %.40q is no file name of a sandbox", ep.netns)
	}
	mac, err := net.ParseMAC(e.GetMac())
	if err != nil || len(mac) != 6 {
		return ep, fmt.Errorf("mac %.40q is no Ethernet address", e.GetMac())
	}
	if mac[0]&3 != 2 {
		return ep, fmt.Errorf("mac %s is not a locally administered unicast address", mac)
	}
	ep.mac = [6]byte(mac)
	if ep.addr, err = netip.ParsePrefix(e.GetAddress()); err != nil {
		return ep, fmt.Errorf("address %.60q is no address with prefix length", e.GetAddress())
	}
	if !ep.addr.Addr().Is4() || ep.addr.Masked() != bridge.Masked() || !isHost(ep.addr) {
		return ep, fmt.Errorf("address %s is no host of the bridge's subnet %s", ep.addr, bridge.Masked())
	}
	if n := len(e.GetPorts()); n > maxPortsPerEndpoint {
		return ep, fmt.Errorf("%d published ports exceed the limit of %d", n, maxPortsPerEndpoint)
	}
	for _, in := range e.GetPorts() {
		out, err := parsePort(in)
		if err != nil {
			return ep, err
		}
		ep.ports = append(ep.ports, out)
	}
	return ep, nil
}

func parsePort(in *netdpb.PublishedPort) (port, error) {
	p := port{udp: in.GetUdp(), host: netip.IPv4Unspecified()}
	for _, n := range []uint32{in.GetPublished(), in.GetTarget()} {
		if n == 0 || n > 65535 {
			return p, fmt.Errorf("port %d is out of range: 1 to 65535", n)
		}
	}
	p.published, p.target = uint16(in.GetPublished()), uint16(in.GetTarget())
	if s := in.GetHostIp(); s != "" {
		a, err := netip.ParseAddr(s)
		if err != nil || !a.Is4() || a.IsMulticast() || a == netip.AddrFrom4([4]byte{255, 255, 255, 255}) {
			return p, fmt.Errorf("host_ip %.60q is no IPv4 address to publish on", s)
		}
		p.host = a
	}
	return p, nil
}

// claims are what each endpoint has for itself.
type claims struct {
	macs, nets map[string]string
	addrs      map[netip.Addr]string
	ports      map[portKey][]port
	count      int
}

type portKey struct {
	udp       bool
	published uint16
}

func newClaims(bridge netip.Prefix) *claims {
	return &claims{
		macs:  map[string]string{bridgeMAC(bridge.Addr()).String(): "the node bridge"},
		nets:  map[string]string{},
		addrs: map[netip.Addr]string{bridge.Addr(): "the node bridge"},
		ports: map[portKey][]port{},
	}
}

// add claims all of the endpoint's or nothing.
func (c *claims) add(e endpoint) error {
	mac := net.HardwareAddr(e.mac[:]).String()
	who := "task " + e.task
	if by := c.macs[mac]; by != "" {
		return fmt.Errorf("mac %s belongs to %s", mac, by)
	}
	if by := c.addrs[e.addr.Addr()]; by != "" {
		return fmt.Errorf("address %s belongs to %s", e.addr.Addr(), by)
	}
	if by := c.nets[e.netns]; by != "" {
		return fmt.Errorf("sandbox %s belongs to %s", e.netns, by)
	}
	if c.count+len(e.ports) > maxPorts {
		return fmt.Errorf("the node publishes more than %d ports", maxPorts)
	}
	for i, p := range e.ports {
		for _, q := range append(e.ports[:i:i], c.ports[portKey{p.udp, p.published}]...) {
			if p.overlaps(q) {
				return fmt.Errorf("port %s is published already as %s", p, q)
			}
		}
	}
	for _, p := range e.ports {
		k := portKey{p.udp, p.published}
		c.ports[k] = append(c.ports[k], p)
	}
	c.count += len(e.ports)
	c.macs[mac], c.addrs[e.addr.Addr()], c.nets[e.netns] = who, who, who
	return nil
}

func byTask(a, b endpoint) int { return cmp.Compare(a.task, b.task) }

func (e endpoint) same(o endpoint) bool {
	return e.task == o.task && e.netns == o.netns && e.mac == o.mac && e.addr == o.addr && slices.Equal(e.ports, o.ports)
}
