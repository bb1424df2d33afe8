package dockerapi

import (
	"net/http"
	"net/netip"

	"github.com/moby/moby/api/types/network"

	"github.com/redoubt-cluster/redoubt/cmd/internal/control/controlpb"
	"github.com/redoubt-cluster/redoubt/mesh/meshpb"
)

// scopeSwarm is the scope of all networks that are kept here.
const scopeSwarm = "swarm"

func (s *Server) networks(q *request) (any, error) {
	f, err := readFilters(q.Request, "id", "label", "name", "driver", "scope", "type", "dangling")
	if err != nil {
		return nil, err
	}
	if err := f.oneOf("type", "custom", "builtin"); err != nil {
		return nil, err
	}
	if err := f.oneOf("scope", "swarm", "local", "global"); err != nil {
		return nil, err
	}
	if err := f.oneOf("dangling", "true", "1", "false", "0"); err != nil {
		return nil, err
	}
	return q.list(each(func(yield func(any) bool) error {
		return pages(q.Context(), q.api.StreamNetworks, &controlpb.StreamNetworksRequest{}, (*controlpb.StreamNetworksResponse).GetNetworks, func(d *controlpb.NetworkDetail) bool {
			n := toNetwork(d)
			dangling := "true"
			if len(d.GetServices()) > 0 {
				dangling = "false"
			}
			if !f.begins("id", n.ID) || !f.begins("name", n.Name) || !f.has("label", n.Labels) || !f.is("driver", n.Driver) || !f.is("scope", n.Scope) ||
				!f.is("type", "custom") || !f.is("dangling", dangling) && !f.is("dangling", map[string]string{"true": "1", "false": "0"}[dangling]) {
				return true
			}
			return yield(n)
		})
	}))
}

func oneNetwork(q *request) (*controlpb.NetworkDetail, error) {
	all, err := q.api.ListNetworks(q.Context(), []string{q.PathValue("id")})
	if isNotFound(err) || err == nil && len(all) != 1 {
		return nil, refuse(http.StatusNotFound, "network %s not found", q.PathValue("id"))
	}
	if err != nil {
		return nil, err
	}
	return all[0], nil
}

func (s *Server) network(q *request) (any, error) {
	if err := onlyParameters(q.Request, "verbose", "scope"); err != nil {
		return nil, err
	}
	d, err := oneNetwork(q)
	if err != nil {
		return nil, err
	}
	if scope := q.URL.Query().Get("scope"); scope != "" && scope != scopeSwarm {
		return nil, refuse(http.StatusNotFound, "network %s not found", q.PathValue("id"))
	}
	out := networkInspect{networkView: toNetwork(d), Containers: map[string]any{}}
	if isOn(q.Request, "verbose") {
		out.Services = networkServices(d)
	}
	return out, nil
}

// networkView is a network as Docker lists it.
type networkView struct {
	network.Network
}

// networkInspect is one as it is inspected.
type networkInspect struct {
	networkView
	// Containers are those of the engine that is asked: it has none of its own.
	Containers map[string]any
	Services   map[string]network.ServiceInfo `json:",omitempty"`
}

func networkServices(d *controlpb.NetworkDetail) map[string]network.ServiceInfo {
	out := map[string]network.ServiceInfo{}
	byID := map[string]string{}
	for _, u := range d.GetUsedBy() {
		info := network.ServiceInfo{Ports: []string{}, Tasks: []network.Task{}}
		if len(u.GetVips()) > 0 {
			info.VIP, _ = netip.ParseAddr(u.GetVips()[0])
		}
		out[u.GetName()], byID[u.GetId()] = info, u.GetName()
	}
	for _, e := range d.GetEndpoints() {
		name, ok := byID[e.GetServiceId()]
		if !ok || len(e.GetAddresses()) == 0 {
			continue
		}
		info := out[name]
		addr, _ := netip.ParseAddr(e.GetAddresses()[0])
		info.Tasks = append(info.Tasks, network.Task{Name: e.GetTaskName() + "." + e.GetTaskId(), EndpointID: e.GetTaskId(), EndpointIP: addr,
			Info: map[string]string{"Host IP": e.GetNodeName()}})
		out[name] = info
	}
	return out
}

func toNetwork(d *controlpb.NetworkDetail) networkView {
	n := d.GetNetwork()
	out := network.Network{
		Name: n.GetSpec().GetName(), ID: n.GetId(), Created: moment(n.GetMeta().GetCreatedAt()), Scope: scopeSwarm, Driver: n.GetSpec().GetDriver(),
		EnableIPv4: true, EnableIPv6: n.GetSpec().GetIpv6(), Internal: n.GetSpec().GetInternal(), Attachable: n.GetSpec().GetAttachable(),
		Ingress: n.GetKind() == meshpb.Kind_KIND_INGRESS, Options: labels(n.GetSpec().GetOptions()), Labels: labels(n.GetSpec().GetLabels()),
		IPAM: network.IPAM{Driver: "default", Config: []network.IPAMConfig{}},
	}
	if out.Driver == "" {
		out.Driver = "overlay"
	}
	for _, s := range n.GetSubnets() {
		var c network.IPAMConfig
		c.Subnet, _ = netip.ParsePrefix(s.GetSubnet())
		c.Gateway, _ = netip.ParseAddr(s.GetGateway())
		c.IPRange, _ = netip.ParsePrefix(s.GetIpRange())
		out.IPAM.Config = append(out.IPAM.Config, c)
	}
	return networkView{out}
}

// networkCreate is a request for a network.
type networkCreate struct {
	network.CreateRequest
	// CheckDuplicate was to refuse a name that is taken, which is always refused.
	CheckDuplicate *bool
}

func (s *Server) networkCreate(q *request) (any, error) {
	var in networkCreate
	if err := readBody(q.w, q.Request, &in); err != nil {
		return nil, err
	}
	in.CheckDuplicate = nil
	spec := &meshpb.NetworkSpec{Name: take(&in.Name), Labels: take(&in.Labels), Driver: take(&in.Driver), Internal: take(&in.Internal),
		Attachable: take(&in.Attachable), Options: take(&in.Options)}
	if on := take(&in.EnableIPv6); on != nil {
		spec.Ipv6 = *on
	}
	if on := take(&in.EnableIPv4); on != nil && !*on {
		return nil, notHere("EnableIPv4: every network has IPv4 here")
	}
	if in.Ingress {
		return nil, notHere("Ingress: each service has an ingress network of its own, which comes and goes with it")
	}
	if in.Scope == scopeSwarm {
		in.Scope = ""
	}
	if i := in.IPAM; i != nil {
		if i.Driver == "default" {
			i.Driver = ""
		}
		for _, c := range take(&i.Config) {
			sub := &meshpb.Subnet{Subnet: text(take(&c.Subnet)), IpRange: text(take(&c.IPRange))}
			if g := take(&c.Gateway); g.IsValid() {
				sub.Gateway = g.String()
			}
			if err := untranslated("IPAM.Config", &c); err != nil {
				return nil, err
			}
			spec.Subnets = append(spec.Subnets, sub)
		}
	}
	if err := untranslated("", &in); err != nil {
		return nil, err
	}
	r, err := q.api.CreateNetwork(q.Context(), &controlpb.CreateNetworkRequest{Spec: spec})
	if err != nil {
		return nil, err
	}
	out := network.CreateResponse{ID: r.GetId()}
	if len(r.GetWarnings()) > 0 {
		out.Warning = r.GetWarnings()[0]
	}
	return accepted{http.StatusCreated, out}, nil
}

// text is a prefix as text; none is empty.
func text(p netip.Prefix) string {
	if !p.IsValid() {
		return ""
	}
	return p.String()
}

func (s *Server) networkRemove(q *request) (any, error) {
	err := gone(q, func() error {
		_, err := q.api.RemoveNetwork(q.Context(), &controlpb.RemoveNetworkRequest{Network: q.PathValue("id")})
		return err
	})
	if isNotFound(err) {
		err = refuse(http.StatusNotFound, "network %s not found", q.PathValue("id"))
	}
	if err != nil {
		return nil, err
	}
	return accepted{http.StatusNoContent, nil}, nil
}
