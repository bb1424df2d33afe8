package control

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/redoubt-cluster/redoubt/cmd/internal/control/apierr"
	"github.com/redoubt-cluster/redoubt/cmd/internal/control/controlpb"
	"github.com/redoubt-cluster/redoubt/mesh/meshpb"
	meshspec "github.com/redoubt-cluster/redoubt/mesh/spec"
	meshstore "github.com/redoubt-cluster/redoubt/mesh/store"
	"github.com/redoubt-cluster/redoubt/raftstore"
	"github.com/redoubt-cluster/redoubt/scheduler/schedulerpb"
	schedstore "github.com/redoubt-cluster/redoubt/scheduler/store"
)

// ExplainPolicy says on which networks tasks of one service may open flows to
// those of another, and which rule says so. It asks the rules that nodes are
// given, of the networks that both services are to be on or still have tasks on.
func (s *Server) ExplainPolicy(ctx context.Context, req *controlpb.ExplainPolicyRequest) (*controlpb.ExplainPolicyResponse, error) {
	asked := &meshpb.PolicyRule{Protocol: req.GetProtocol(), FirstPort: req.GetPort(), LastPort: req.GetPort()}
	if err := meshspec.Flow(asked); err != nil {
		return nil, apierr.Invalid("", "%v", err)
	}
	resp := &controlpb.ExplainPolicyResponse{}
	err := s.view(ctx, func(r *raftstore.ReadTx) error {
		from, err := schedstore.ResolveService(r, req.GetFromService())
		if err != nil {
			return err
		}
		to, err := schedstore.ResolveService(r, req.GetToService())
		if err != nil {
			return err
		}
		asked.FromService, asked.ToService = from.GetSpec().GetName(), to.GetSpec().GetName()
		resp.FromService, resp.ToService = asked.FromService, asked.ToService
		a, b := networksOf(r, from), networksOf(r, to)
		for id, n := range a {
			if b[id] == nil {
				continue
			}
			v := verdict(r, n, asked)
			resp.Networks = append(resp.Networks, v)
			resp.Allowed = resp.Allowed || v.Allowed
		}
		slices.SortFunc(resp.Networks, func(x, y *controlpb.PolicyVerdict) int {
			return strings.Compare(x.GetNetworkName(), y.GetNetworkName())
		})
		if len(resp.Networks) == 0 {
			resp.Reason = fmt.Sprintf("they share no network: %s is on %s, %s on %s", asked.FromService, names(a), asked.ToService, names(b))
			if len(b) > 0 {
				resp.Remedies = []string{fmt.Sprintf("redoubt service update --network-add %s %s", strings.Split(names(b), ", ")[0], asked.FromService)}
			}
		}
		for _, v := range resp.Networks {
			if !resp.Allowed && len(resp.Remedies) < maxExplained {
				resp.Remedies = append(resp.Remedies, fmt.Sprintf("redoubt policy create --network %s --allow %s %s-to-%s",
					v.GetNetworkName(), word(meshspec.FormatRule(asked)), asked.FromService, asked.ToService))
			}
		}
		return nil
	})
	return resp, err
}

// networksOf are the networks that a service is to be on, and those that it has
// tasks on yet.
func networksOf(r raftstore.Reader, svc *schedulerpb.Service) map[string]*meshpb.Network {
	out := map[string]*meshpb.Network{}
	add := func(id string) {
		if n, ok := meshstore.Networks.Get(r, id); ok && n.GetKind() != meshpb.Kind_KIND_INGRESS && meshspec.Given(n.GetSpec().GetDriver()) {
			out[id] = n
		}
	}
	for _, u := range svc.GetSpec().GetTask().GetNetworks() {
		add(u.GetNetwork())
	}
	for t := range schedstore.OfService(r, svc.GetId()) {
		if schedstore.Live(t) {
			for _, a := range t.GetAttachments() {
				add(a.GetNetworkId())
			}
		}
	}
	return out
}

func names(of map[string]*meshpb.Network) string {
	var out []string
	for n := range maps.Values(of) {
		out = append(out, n.GetSpec().GetName())
	}
	if slices.Sort(out); len(out) == 0 {
		return "none"
	}
	return strings.Join(out, ", ")
}

// verdict is what one network says to a flow.
func verdict(r raftstore.Reader, n *meshpb.Network, asked *meshpb.PolicyRule) *controlpb.PolicyVerdict {
	v := &controlpb.PolicyVerdict{NetworkId: n.GetId(), NetworkName: n.GetSpec().GetName()}
	switch {
	case asked.GetFromService() == asked.GetToService():
		v.Allowed, v.Reason = true, "tasks of one service reach each other"
		return v
	case !n.GetSpec().GetDefaultDeny():
		v.Allowed, v.Reason = true, "the network was not made with --default-deny"
		return v
	}
	policies := slices.SortedFunc(meshstore.Policies.By(r, "network", n.GetId()), func(a, b *meshpb.Policy) int {
		return strings.Compare(a.GetSpec().GetName(), b.GetSpec().GetName())
	})
	var partly []string
	for _, p := range policies {
		for i, rule := range p.GetSpec().GetRules() {
			switch meshspec.Covers(rule, asked) {
			case meshspec.All:
				v.Allowed, v.Policy, v.Index, v.Rule = true, p.GetSpec().GetName(), uint32(i), rule
				v.Reason = fmt.Sprintf("policy %s allows %s", v.Policy, meshspec.FormatRule(rule))
				return v
			case meshspec.Part:
				partly = append(partly, meshspec.FormatRule(rule)+" by policy "+p.GetSpec().GetName())
			}
		}
	}
	v.Reason = "the network denies what no policy allows, and none does"
	if len(partly) > 0 {
		v.Reason = "only a part of it is allowed: " + strings.Join(partly[:min(len(partly), maxExplained)], ", ")
	}
	return v
}
