package ingress

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"net/netip"
	"strings"

	"google.golang.org/protobuf/proto"

	"github.com/redoubt-cluster/redoubt/internal/ident"
	"github.com/redoubt-cluster/redoubt/mesh/netd/internal/hold"
	"github.com/redoubt-cluster/redoubt/mesh/netd/internal/pools"
	"github.com/redoubt-cluster/redoubt/mesh/netd/netdpb"
)

// guard refuses what is older than the declaration in force or made to another,
// and reports whether it is the one in force.
func (i *Ingress) guard(req *netdpb.IngressRequest) (sum [sha256.Size]byte, again bool, err error) {
	b, err := proto.MarshalOptions{Deterministic: true}.Marshal(req)
	if err != nil {
		return sum, false, err
	}
	sum = sha256.Sum256(b)
	switch g, now := req.GetGeneration(), i.plan.generation; {
	case g == 0:
		return sum, false, errors.New("generation is missing: it starts at 1")
	case g < now:
		return sum, false, fmt.Errorf("generation %d is older than %d, which is in force", g, now)
	case g == now && sum != i.sum:
		return sum, false, fmt.Errorf("generation %d is in force with another content: use a higher one", g)
	case g == now:
		return sum, true, nil
	case req.GetBase() != 0 && req.GetBase() != now:
		return sum, false, fmt.Errorf("base %d is not in force, generation %d is: declare the whole", req.GetBase(), now)
	}
	return sum, false, nil
}

// merge makes the plan that the request asks for.
func (p *plan) merge(req *netdpb.IngressRequest) (*plan, error) {
	q := p.clone()
	if req.GetBase() == 0 {
		q = emptyPlan().withPools(p.pools)
		q.kernel = p.kernel
		if len(req.GetRemoved()) > 0 {
			return nil, errors.New("removed is of a difference: base is 0")
		}
	}
	q.generation = req.GetGeneration()
	if err := q.settings(req); err != nil {
		return nil, err
	}
	for _, id := range req.GetRemoved() {
		if _, ok := q.services[id]; !ok {
			return nil, fmt.Errorf("removed service %.40q is not in force", id)
		}
		delete(q.services, id)
	}
	seen := map[string]bool{}
	for _, s := range req.GetServices() {
		id := s.GetServiceId()
		if seen[id] {
			return nil, fmt.Errorf("service %.40q is declared twice", id)
		}
		seen[id] = true
		parsed, err := parseService(s, q.services[id])
		if err != nil {
			return nil, err
		}
		q.services[id] = parsed
	}
	if p.index.of != p {
		p.index.of = nil
	}
	return q, q.index.check(q)
}

func (p *plan) settings(req *netdpb.IngressRequest) (err error) {
	if req.GetMeshAddress() != "" {
		if p.mesh, err = parseAddr("mesh_address", req.GetMeshAddress()); err != nil {
			return err
		}
	}
	if req.GetSubnet6() != "" {
		s, err := netip.ParsePrefix(req.GetSubnet6())
		if err != nil || !s.Addr().Is6() || s.Addr().Is4In6() || s.Masked() != s || s.Bits() < minBits6 || s.Bits() > maxBits6 || !s.Addr().IsGlobalUnicast() {
			return fmt.Errorf("subnet6 %.60q is no IPv6 prefix of %d to %d bits", req.GetSubnet6(), minBits6, maxBits6)
		}
		p.subnets[1] = s
	}
	if req.GetSubnet() != "" {
		s, err := netip.ParsePrefix(req.GetSubnet())
		if err != nil || !s.Addr().Is4() || s.Masked() != s || s.Bits() < minBits || s.Bits() > maxBits || !s.Addr().IsGlobalUnicast() {
			return fmt.Errorf("subnet %.60q is no IPv4 prefix of %d to %d bits, such as 10.255.0.0/16", req.GetSubnet(), minBits, maxBits)
		}
		p.subnets[0] = s
	}
	if req.GetPools() != nil {
		all, err := pools.Parse(req.GetPools().GetPrefixes())
		if err != nil {
			return err
		}
		p.withPools(all)
	}
	if req.GetNetns() != "" {
		if req.GetNetns() != Netns {
			return fmt.Errorf("netns %.80q is not %s", req.GetNetns(), Netns)
		}
		p.netns = req.GetNetns()
	}
	return nil
}

func parseAddr(what, s string) (netip.Addr, error) {
	a, err := netip.ParseAddr(s)
	if err != nil || !a.Is4() || !a.IsGlobalUnicast() {
		return a, fmt.Errorf("%s %.60q is no IPv4 address of a host", what, s)
	}
	return a, nil
}

func isFileName(s string) bool {
	return s != "" && s != "." && s != ".." && len(s) <= maxNetns && !strings.ContainsFunc(s, func(r rune) bool { return r <= ' ' || r > '~' || r == '/' })
}

// parseService makes a service, of the one before where it says changes.
func parseService(req *netdpb.IngressService, before *service) (*service, error) {
	if !ident.Valid(req.GetServiceId()) {
		return nil, fmt.Errorf("service_id %.40q is no id", req.GetServiceId())
	}
	s := &service{id: req.GetServiceId(), vni: req.GetVni(), entries: map[netip.Addr]bool{}, endpoints: map[string]endpoint{}}
	switch {
	case req.GetChanges() && before == nil:
		return nil, fmt.Errorf("service %s changes and is not in force: declare it whole", s.id)
	case req.GetChanges() && (req.GetVni() != 0 || len(req.GetPorts()) > 0):
		return nil, fmt.Errorf("service %s changes: VNI and ports are part of its whole", s.id)
	case req.GetChanges():
		s = before.clone()
	case len(req.GetRemovedEndpoints())+len(req.GetRemovedEntries()) > 0:
		return nil, fmt.Errorf("service %s: what is removed is of changes", s.id)
	case s.vni == 0 || s.vni > maxVNI:
		return nil, fmt.Errorf("service %s: VNI %d has not 24 bits", s.id, s.vni)
	}
	if n := len(req.GetPorts()); n > maxServicePorts {
		return nil, fmt.Errorf("service %s: %d ports exceed the limit of %d", s.id, n, maxServicePorts)
	}
	for _, r := range req.GetPorts() {
		p, err := parsePort(r)
		if err != nil {
			return nil, fmt.Errorf("service %s: %w", s.id, err)
		}
		s.ports = append(s.ports, p...)
	}
	if err := s.takeEntries(req); err != nil {
		return nil, fmt.Errorf("service %s: %w", s.id, err)
	}
	for _, id := range req.GetRemovedEndpoints() {
		if _, ok := s.endpoints[id]; !ok {
			return nil, fmt.Errorf("service %s: removed task %.40q is not in force", s.id, id)
		}
		delete(s.endpoints, id)
	}
	seen := map[string]bool{}
	for _, r := range req.GetEndpoints() {
		e, err := parseEndpoint(r)
		if err == nil && seen[e.task] {
			err = errors.New("it is declared twice")
		}
		if err != nil {
			return nil, fmt.Errorf("service %s, task %.40q: %w", s.id, r.GetTaskId(), err)
		}
		seen[e.task] = true
		s.endpoints[e.task] = e
	}
	if n := len(s.endpoints); n > maxServiceEndpoints {
		return nil, fmt.Errorf("service %s: %d tasks exceed the limit of %d", s.id, n, maxServiceEndpoints)
	}
	s.settle()
	return s, nil
}

func (s *service) takeEntries(req *netdpb.IngressService) error {
	if req.Entry != nil {
		s.entry = req.GetEntry()
	}
	for _, text := range req.GetRemovedEntries() {
		a, err := parseAddr("removed entry", text)
		if err != nil {
			return err
		}
		delete(s.entries, a)
	}
	for _, text := range req.GetEntries() {
		a, err := parseAddr("entry", text)
		if err != nil {
			return err
		}
		s.entries[a] = true
	}
	return nil
}

// parsePort makes two ports of one without an address: one of each family.
func parsePort(r *netdpb.IngressPort) ([]port, error) {
	p := port{Port: hold.Port{UDP: r.GetUdp(), Host: netip.IPv4Unspecified(), Number: uint16(r.GetPublished())}, target: uint16(r.GetTarget()), local: r.GetPreferLocal()}
	for _, n := range []uint32{r.GetPublished(), r.GetTarget()} {
		if n == 0 || n > 65535 {
			return nil, fmt.Errorf("port %d is none: 1 to 65535", n)
		}
	}
	if r.GetHostIp() == "" {
		q := p
		q.Host = netip.IPv6Unspecified()
		return []port{p, q}, nil
	}
	var err error
	if p.Host, err = netip.ParseAddr(r.GetHostIp()); err != nil || p.Host.Is4In6() || p.Host.Zone() != "" || p.Host.IsMulticast() || p.Host.IsLinkLocalUnicast() && p.Host.Is6() {
		return nil, fmt.Errorf("host_ip %.60q is no address that ports can be answered on", r.GetHostIp())
	}
	return []port{p}, nil
}

func parseEndpoint(r *netdpb.IngressEndpoint) (e endpoint, err error) {
	e = endpoint{task: r.GetTaskId(), netns: r.GetNetns(), serving: r.GetServing()}
	if !ident.Valid(e.task) {
		return e, errors.New("that is no task id")
	}
	if e.addrs[0], err = parseAddr("address", r.GetAddress()); err != nil {
		return e, err
	}
	if r.GetAddress6() != "" {
		a, err := netip.ParseAddr(r.GetAddress6())
		if err != nil || !a.Is6() || a.Is4In6() || a.Zone() != "" || !a.IsGlobalUnicast() {
			return e, fmt.Errorf("address6 %.60q is no IPv6 address of a host", r.GetAddress6())
		}
		e.addrs[1] = a
	}
	if r.GetNode() != "" {
		if e.node, err = parseAddr("node", r.GetNode()); err != nil {
			return e, err
		}
		if e.netns != "" {
			return e, errors.New("netns is of a task of this node")
		}
		return e, nil
	}
	if !isFileName(e.netns) {
		return e, fmt.Errorf("netns %.80q is no name of a file", e.netns)
	}
	return e, nil
}
