package overlay

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/redoubt-cluster/redoubt/internal/ident"
	"github.com/redoubt-cluster/redoubt/mesh/netd/ingress"
	"github.com/redoubt-cluster/redoubt/mesh/netd/netdpb"
	"github.com/redoubt-cluster/redoubt/mesh/netd/overlay/rules"
)

// A declaration is a checked OverlayRequest, as far as it can be checked without
// knowing what is in force.
type declaration struct {
	generation, base uint64
	mesh             netip.Addr // invalid: as before
	networks         []*change
	removed          []string
}

// A change is what is declared of one network: all of it, or a difference.
type change struct {
	id      string
	changes bool
	settings
	endpoints        []*endpoint
	removedEndpoints []string
	services         []*service
	removedServices  []string
	rules            []rules.Rule
	rulesChanged     bool
}

// settings are what of a network is neither endpoint, service nor rule.
type settings struct {
	vni                   uint32
	subnets               [2]subnet // IPv4 first; the second may be zero
	netns                 string
	internal, defaultDeny bool
}

type subnet struct {
	prefix  netip.Prefix
	gateway netip.Addr
}

// An endpoint is not changed, only replaced.
type endpoint struct {
	task, service string
	addrs         [2]netip.Addr // as the network's subnets
	node          netip.Addr    // invalid: a task of this node
	serving       bool
	netns         string
	index         uint32
}

func (e *endpoint) local() bool { return !e.node.IsValid() }

type service struct {
	id   string
	vips [2]netip.Addr // as the network's subnets; none: nothing is balanced
}

// parse checks the request.
func parse(req *netdpb.OverlayRequest) (d declaration, err error) {
	d.generation, d.base = req.GetGeneration(), req.GetBase()
	switch {
	case d.generation == 0:
		return d, errors.New("generation is missing: it starts at 1")
	case d.base >= d.generation:
		return d, fmt.Errorf("base %d is not older than generation %d", d.base, d.generation)
	case d.base == 0 && len(req.GetRemoved()) > 0:
		return d, errors.New("removed names networks, but base is missing: a whole declaration leaves out what is to go")
	case len(req.GetNetworks()) > maxNetworks || len(req.GetRemoved()) > maxNetworks:
		return d, fmt.Errorf("%d networks exceed the limit of %d", max(len(req.GetNetworks()), len(req.GetRemoved())), maxNetworks)
	}
	if s := req.GetMeshAddress(); s != "" {
		if d.mesh, err = parseMesh(s); err != nil {
			return d, fmt.Errorf("mesh_address %w", err)
		}
	} else if d.base == 0 && len(req.GetNetworks()) > 0 {
		return d, errors.New("mesh_address is missing: networks need the node's own")
	}
	if err := checkSandboxes(req); err != nil {
		return d, err
	}
	seen := make(map[string]bool, len(req.GetNetworks()))
	once := func(id string) error {
		if !ident.Valid(id) {
			return fmt.Errorf("network id %.40q is no id", id)
		}
		if seen[id] {
			return fmt.Errorf("network %s stands twice in one declaration", id)
		}
		seen[id] = true
		return nil
	}
	for _, in := range req.GetNetworks() {
		if err := once(in.GetId()); err != nil {
			return d, err
		}
		if in.GetChanges() && d.base == 0 {
			return d, fmt.Errorf("network %s says changes, but base is missing: a whole declaration has whole networks", in.GetId())
		}
		c, err := parseNetwork(in)
		if err != nil {
			return d, fmt.Errorf("network %s: %w", in.GetId(), err)
		}
		d.networks = append(d.networks, c)
	}
	for _, id := range req.GetRemoved() {
		if err := once(id); err != nil {
			return d, err
		}
		d.removed = append(d.removed, id)
	}
	return d, nil
}

// checkSandboxes is for who reads them: here nothing is done with them.
func checkSandboxes(req *netdpb.OverlayRequest) error {
	if n := len(req.GetSandboxes()); n > maxSandboxes {
		return fmt.Errorf("%d sandboxes exceed the limit of %d", n, maxSandboxes)
	}
	if req.GetBase() != 0 && !req.GetSandboxesChanged() && len(req.GetSandboxes()) > 0 {
		return errors.New("it has sandboxes, but does not say sandboxes_changed")
	}
	seen := make(map[string]bool, len(req.GetSandboxes()))
	for _, s := range req.GetSandboxes() {
		if !ident.Valid(s.GetTaskId()) || !ident.Valid(s.GetNetns()) || seen[s.GetTaskId()] {
			return fmt.Errorf("sandbox %.40q of task %.40q is no file name of one, or given twice", s.GetNetns(), s.GetTaskId())
		}
		seen[s.GetTaskId()] = true
	}
	return nil
}

func parseNetwork(in *netdpb.OverlayNetwork) (c *change, err error) {
	c = &change{id: in.GetId(), changes: in.GetChanges(), rulesChanged: in.GetRulesChanged()}
	if c.changes {
		if in.GetVni() != 0 || len(in.GetSubnets()) > 0 || in.GetNetns() != "" || in.GetInternal() || in.GetDefaultDeny() {
			return nil, errors.New("changes leave vni, subnets, netns, internal and default_deny as they are: declare it whole to change them")
		}
		if !c.rulesChanged && len(in.GetRules()) > 0 {
			return nil, errors.New("it has rules, but does not say rules_changed")
		}
	} else {
		if len(in.GetRemovedEndpoints())+len(in.GetRemovedServices()) > 0 {
			return nil, errors.New("removed_endpoints and removed_services are for changes: a whole network leaves out what is to go")
		}
		if c.settings, err = parseSettings(in); err != nil {
			return nil, err
		}
	}
	if c.endpoints, c.removedEndpoints, err = parseParts("endpoint", maxEndpoints, in.GetEndpoints(), (*netdpb.OverlayEndpoint).GetTaskId, in.GetRemovedEndpoints(), parseEndpoint); err != nil {
		return nil, err
	}
	if c.services, c.removedServices, err = parseParts("service", maxServices, in.GetServices(), (*netdpb.OverlayService).GetServiceId, in.GetRemovedServices(), parseService); err != nil {
		return nil, err
	}
	if n := len(in.GetRules()); n > maxRules {
		return nil, fmt.Errorf("%d rules exceed the limit of %d", n, maxRules)
	}
	ids := make(map[string]bool, len(in.GetRules()))
	for _, r := range in.GetRules() {
		out, err := parseRule(r)
		if err == nil && ids[r.GetId()] {
			err = errors.New("it stands there twice")
		}
		if err != nil {
			return nil, fmt.Errorf("rule %.80q: %w", r.GetId(), err)
		}
		ids[r.GetId()] = true
		c.rules = append(c.rules, out)
	}
	return c, nil
}

// parseParts checks what comes under ids, and the ids that go.
func parseParts[P, T any](what string, most int, parts []P, id func(P) string, removed []string, parse func(P) (T, error)) (out []T, gone []string, err error) {
	if len(parts) > most || len(removed) > most {
		return nil, nil, fmt.Errorf("%d %ss exceed the limit of %d", max(len(parts), len(removed)), what, most)
	}
	seen := make(map[string]bool, len(parts)+len(removed))
	once := func(id string) error {
		if !ident.Valid(id) {
			return fmt.Errorf("%s %.40q: that is no id", what, id)
		}
		if seen[id] {
			return fmt.Errorf("%s %s stands twice in one declaration", what, id)
		}
		seen[id] = true
		return nil
	}
	for _, p := range parts {
		if err := once(id(p)); err != nil {
			return nil, nil, err
		}
		x, err := parse(p)
		if err != nil {
			return nil, nil, fmt.Errorf("%s %s: %w", what, id(p), err)
		}
		out = append(out, x)
	}
	for _, r := range removed {
		if err := once(r); err != nil {
			return nil, nil, err
		}
	}
	return out, removed, nil
}

func parseSettings(in *netdpb.OverlayNetwork) (s settings, err error) {
	s = settings{vni: in.GetVni(), netns: in.GetNetns(), internal: in.GetInternal(), defaultDeny: in.GetDefaultDeny()}
	if s.vni == 0 || s.vni > maxVNI {
		return s, fmt.Errorf("vni %d is out of range: 1 to %d", s.vni, maxVNI)
	}
	if !isNetworkNetns(s.netns) {
		return s, fmt.Errorf("netns %.80q is no name of a network's namespace: net- and an id", s.netns)
	}
	if n := len(in.GetSubnets()); n == 0 || n > 2 {
		return s, fmt.Errorf("it has %d subnets: one, or one of each family", n)
	}
	for i, sub := range in.GetSubnets() {
		if s.subnets[i], err = parseSubnet(sub); err != nil {
			return s, err
		}
	}
	if second := s.subnets[1].prefix; second.IsValid() && (!s.subnets[0].prefix.Addr().Is4() || second.Addr().Is4()) {
		return s, errors.New("two subnets are one of each family, IPv4 first")
	}
	return s, nil
}

// isNetworkNetns: a sandbox's namespace is named by an id alone, so neither is
// ever taken for the other. That of ingress networks is package ingress's.
func isNetworkNetns(s string) bool {
	rest, ok := strings.CutPrefix(s, netnsPrefix)
	return ok && rest != "" && s != ingress.Netns && len(s) <= maxNetns && rest[0] != '-' && !strings.ContainsFunc(rest, func(r rune) bool {
		return (r < 'a' || r > 'z') && (r < '0' || r > '9') && r != '-'
	})
}

func parseSubnet(in *netdpb.OverlaySubnet) (s subnet, err error) {
	if s.prefix, err = netip.ParsePrefix(in.GetSubnet()); err != nil || s.prefix.Addr().Is4In6() {
		return s, fmt.Errorf("subnet %.60q is no address with prefix length, such as 10.200.1.0/24", in.GetSubnet())
	}
	least, most := minBits4, maxBits4
	if s.prefix.Addr().Is6() {
		least, most = minBits6, maxBits6
	}
	switch {
	case s.prefix != s.prefix.Masked():
		return s, fmt.Errorf("subnet %s has bits beyond its prefix length: use %s", s.prefix, s.prefix.Masked())
	case s.prefix.Bits() < least || s.prefix.Bits() > most:
		return s, fmt.Errorf("subnet %s: the prefix length must be %d to %d", s.prefix, least, most)
	case !isUnicast(s.prefix.Addr()):
		return s, fmt.Errorf("subnet %s: use a private unicast range", s.prefix)
	}
	if s.gateway, err = parseAddr(in.GetGateway()); err != nil || !s.hasHost(s.gateway) {
		return s, fmt.Errorf("gateway %.60q is no host of %s", in.GetGateway(), s.prefix)
	}
	return s, nil
}

func isUnicast(a netip.Addr) bool {
	return a.IsGlobalUnicast() && !a.Is4() || a.Is4() && a.IsGlobalUnicast() && a.As4()[0] != 0 && a.As4()[0] < 240
}

func parseAddr(s string) (netip.Addr, error) {
	a, err := netip.ParseAddr(s)
	if err != nil || a.Is4In6() || a.Zone() != "" {
		return netip.Addr{}, fmt.Errorf("%.60q is no IP address", s)
	}
	return a, nil
}

func parseMesh(s string) (netip.Addr, error) {
	a, err := parseAddr(s)
	if err != nil || !a.Is4() || !isUnicast(a) {
		return netip.Addr{}, fmt.Errorf("%.60q is no IPv4 address of a node", s)
	}
	return a, nil
}

// hasHost reports whether the address is one of the subnet, and neither the
// first, which names the subnet or any router, nor IPv4's last.
func (s subnet) hasHost(a netip.Addr) bool {
	if !s.prefix.Contains(a) || a == s.prefix.Addr() {
		return false
	}
	return a.Is6() || s.prefix.Contains(a.Next())
}

func parseAddrs(what string, in []string) (out [2]netip.Addr, err error) {
	if len(in) > len(out) {
		return out, fmt.Errorf("it has %d %s: one of each family of the network", len(in), what)
	}
	for i, s := range in {
		if out[i], err = parseAddr(s); err != nil {
			return out, fmt.Errorf("%s: %w", what, err)
		}
	}
	return out, nil
}

func parseEndpoint(in *netdpb.OverlayEndpoint) (e *endpoint, err error) {
	e = &endpoint{task: in.GetTaskId(), service: in.GetServiceId(), serving: in.GetServing(), netns: in.GetNetns(), index: in.GetIndex()}
	if !ident.Valid(e.service) {
		return nil, fmt.Errorf("service_id %.40q is no id", e.service)
	}
	if len(in.GetAddresses()) == 0 {
		return nil, errors.New("it has no addresses")
	}
	if e.addrs, err = parseAddrs("addresses", in.GetAddresses()); err != nil {
		return nil, err
	}
	if in.GetNode() != "" {
		if e.node, err = parseMesh(in.GetNode()); err != nil {
			return nil, fmt.Errorf("node %w", err)
		}
		if e.netns != "" || e.index != 0 {
			return nil, errors.New("netns and index are for tasks of this node, and it has a node")
		}
		return e, nil
	}
	if !ident.Valid(e.netns) {
		return nil, fmt.Errorf("netns %.40q is no file name of a sandbox", e.netns)
	}
	if e.index >= maxIndex {
		return nil, fmt.Errorf("index %d is out of range: 0 to %d", e.index, maxIndex-1)
	}
	return e, nil
}

func parseService(in *netdpb.OverlayService) (s *service, err error) {
	s = &service{id: in.GetServiceId()}
	s.vips, err = parseAddrs("vips", in.GetVips())
	return s, err
}

func parseRule(in *netdpb.OverlayRule) (r rules.Rule, err error) {
	r = rules.Rule{ID: in.GetId(), From: in.GetFrom(), To: in.GetTo(), Proto: uint8(in.GetProtocol()), First: uint16(in.GetFirstPort()), Last: uint16(in.GetLastPort())}
	if len(r.ID) == 0 || len(r.ID) > maxRuleID || strings.ContainsFunc(r.ID, func(c rune) bool {
		return (c < 'a' || c > 'z') && (c < '0' || c > '9') && c != '/' && c != '-'
	}) {
		return r, fmt.Errorf("its id has other characters than a-z, 0-9, / and -, or more than %d", maxRuleID)
	}
	for _, ends := range [][]string{r.From, r.To} {
		if len(ends) > maxRuleEnds {
			return r, fmt.Errorf("it names %d services: at most %d are allowed at each end", len(ends), maxRuleEnds)
		}
		if i := slices.IndexFunc(ends, func(s string) bool { return !ident.Valid(s) }); i >= 0 {
			return r, fmt.Errorf("%.40q is no service id", ends[i])
		}
	}
	first, last := in.GetFirstPort(), in.GetLastPort()
	switch {
	case in.GetProtocol() > 255:
		return r, fmt.Errorf("protocol %d is out of range: 0 to 255", in.GetProtocol())
	case first == 0 && last == 0:
	case first == 0 || last < first || last > 65535:
		return r, fmt.Errorf("ports %d to %d are no range within 1 to 65535", first, last)
	case r.Proto != protoTCP && r.Proto != protoUDP && r.Proto != protoSCTP:
		return r, fmt.Errorf("it names ports, and protocol %d has none", r.Proto)
	}
	return r, nil
}
