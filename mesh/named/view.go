package named

import (
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"strings"

	"github.com/redoubt-cluster/redoubt/internal/ident"
	"github.com/redoubt-cluster/redoubt/mesh/named/namedpb"
)

// view is all that is declared. It is replaced as a whole and never changed, so
// a query sees one generation.
type view struct {
	generation uint64
	sandboxes  map[string]*asker
	networks   map[string]*network
	upstreams  []netip.AddrPort
	internal   []netip.Prefix
	names      int
}

// asker is a sandbox as declared.
type asker struct {
	hostname string
	networks []*network
	ids      []string // of networks
	own      record
	forward  bool
	search   []string
	// upstreams are asked in the place of the node's resolvers; none: those.
	upstreams []netip.AddrPort
}

var errNeedWhole = errors.New("the difference is from a generation that is not in force: declare everything")

// next is the view after req, which is checked whole before anything of it counts.
func (v *view) next(req *namedpb.DeclareRequest) (*view, error) {
	g, base := req.GetGeneration(), req.GetBase()
	if g == 0 || g <= v.generation && base != 0 || g < v.generation {
		return nil, fmt.Errorf("generation %d is older than %d, which is in force: use a higher one", g, v.generation)
	}
	n := &view{generation: g, sandboxes: map[string]*asker{}, networks: map[string]*network{}}
	if base != 0 {
		if base != v.generation {
			return nil, errNeedWhole
		}
		n.sandboxes, n.networks = maps.Clone(v.sandboxes), maps.Clone(v.networks)
		n.upstreams, n.internal = v.upstreams, v.internal
	} else if len(req.GetRemovedSandboxes())+len(req.GetRemovedNetworks()) > 0 {
		return nil, errors.New("a whole declaration removes nothing by name: leave it out instead")
	}
	for _, id := range req.GetRemovedSandboxes() {
		delete(n.sandboxes, id)
	}
	for _, id := range req.GetRemovedNetworks() {
		delete(n.networks, id)
	}
	if err := n.take(req); err != nil {
		return nil, err
	}
	return n, n.bind()
}

func (v *view) take(req *namedpb.DeclareRequest) error {
	seen := map[string]bool{}
	for _, p := range req.GetNetworks() {
		if !ident.Valid(p.GetId()) || seen[p.GetId()] {
			return fmt.Errorf("network %q: it is given twice, or has no valid id", ident.Clip(p.GetId()))
		}
		seen[p.GetId()] = true
		made, err := makeNetwork(p)
		if err != nil {
			return fmt.Errorf("network %s: %w", p.GetId(), err)
		}
		v.networks[p.GetId()] = made
	}
	for _, p := range req.GetSandboxes() {
		if !ident.Valid(p.GetTaskId()) || seen[p.GetTaskId()] {
			return fmt.Errorf("sandbox %q: it is given twice, or has no valid id", ident.Clip(p.GetTaskId()))
		}
		seen[p.GetTaskId()] = true
		made, err := makeSandbox(p)
		if err != nil {
			return fmt.Errorf("sandbox %s: %w", p.GetTaskId(), err)
		}
		v.sandboxes[p.GetTaskId()] = made
	}
	if r := req.GetResolvers(); r != nil {
		var err error
		if v.upstreams, err = upstreams(r.GetUpstreams()); err != nil {
			return err
		}
		if v.internal, err = prefixes("internal prefix", r.GetInternal(), maxInternal); err != nil {
			return err
		}
	}
	return nil
}

// bind gives each sandbox its networks, which may be others than before.
func (v *view) bind() error {
	if len(v.sandboxes) > maxSandboxes || len(v.networks) > maxNetworks {
		return fmt.Errorf("%d sandboxes and %d networks: at most %d and %d are allowed", len(v.sandboxes), len(v.networks), maxSandboxes, maxNetworks)
	}
	for _, n := range v.networks {
		v.names += len(n.names)
	}
	if v.names > maxNames {
		return fmt.Errorf("%d names: at most %d are allowed", v.names, maxNames)
	}
	for task, s := range v.sandboxes {
		same := len(s.networks) == len(s.ids)
		for i := 0; i < len(s.ids) && same; i++ {
			same = s.networks[i] == v.networks[s.ids[i]]
		}
		if same {
			continue
		}
		b := *s
		b.networks = make([]*network, len(b.ids))
		for i, id := range b.ids {
			if b.networks[i] = v.networks[id]; b.networks[i] == nil {
				return fmt.Errorf("sandbox %s: its network %s is not declared", task, id)
			}
		}
		v.sandboxes[task] = &b
	}
	return nil
}

func makeSandbox(p *namedpb.Sandbox) (*asker, error) {
	s := &asker{forward: p.GetForward(), ids: p.GetNetworkIds()}
	if len(s.ids) > maxNetworksPerSandbox || len(p.GetSearch()) > maxSearch {
		return nil, fmt.Errorf("%d networks and %d search domains: at most %d and %d are allowed", len(s.ids), len(p.GetSearch()), maxNetworksPerSandbox, maxSearch)
	}
	seen := map[string]bool{}
	for _, id := range s.ids {
		if !ident.Valid(id) || seen[id] {
			return nil, fmt.Errorf("network %q: it is given twice, or is no valid id", ident.Clip(id))
		}
		seen[id] = true
	}
	var err error
	if p.GetHostname() != "" {
		if s.hostname, err = fold("hostname", p.GetHostname()); err != nil {
			return nil, err
		}
	}
	for _, d := range p.GetSearch() {
		if d, err = fold("search domain", strings.TrimSuffix(d, ".")); err != nil {
			return nil, err
		}
		s.search = append(s.search, "."+d)
	}
	if s.upstreams, err = ownUpstreams(p.GetUpstreams()); err != nil {
		return nil, err
	}
	return s, s.own.add(p.GetAddresses())
}

// stub is the address of every sandbox's own server: forwarding there would go round.
var stub = netip.MustParseAddr("127.0.0.11")

// ownUpstreams are resolvers of one sandbox, which named asks in its stead: they are
// nobody whom the sandbox could not ask itself, which the node is, and what is on its
// link alone.
func ownUpstreams(list []string) ([]netip.AddrPort, error) {
	out, err := upstreams(list)
	if err != nil {
		return nil, err
	}
	for _, u := range out {
		if a := u.Addr(); a.IsLoopback() || a.IsLinkLocalUnicast() || u.Port() != 53 {
			return nil, fmt.Errorf("resolver %s is the node's own, or on its link, or not at port 53", u)
		}
	}
	return out, nil
}

func upstreams(list []string) ([]netip.AddrPort, error) {
	if len(list) > maxUpstreams {
		return nil, fmt.Errorf("%d resolvers: at most %d are allowed", len(list), maxUpstreams)
	}
	var out []netip.AddrPort
	for _, s := range list {
		ap, err := netip.ParseAddrPort(s)
		if err != nil {
			a, aerr := netip.ParseAddr(s)
			if aerr != nil {
				return nil, fmt.Errorf("resolver %q is neither an address nor address:port", s)
			}
			ap = netip.AddrPortFrom(a, 53)
		}
		a := ap.Addr().Unmap()
		if a.IsUnspecified() || a.IsMulticast() || a == stub || ap.Port() == 0 {
			return nil, fmt.Errorf("resolver %s cannot be asked", s)
		}
		out = append(out, netip.AddrPortFrom(a, ap.Port()))
	}
	return out, nil
}
