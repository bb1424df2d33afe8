package spec

import (
	"errors"
	"fmt"

	"google.golang.org/protobuf/proto"

	"github.com/redoubt-cluster/redoubt/internal/ident"
	"github.com/redoubt-cluster/redoubt/mesh/meshpb"
)

// Policy returns a copy of s, or an error that says which field is wrong and what
// to do. The network it names is the store's to find.
func Policy(s *meshpb.PolicySpec) (*meshpb.PolicySpec, error) {
	if s == nil {
		return nil, errors.New("there is no policy: give a name, a network and rules")
	}
	if err := known(s); err != nil {
		return nil, err
	}
	if err := ident.CheckOwnName("policy", s.GetName()); err != nil {
		return nil, err
	}
	if err := ident.CheckLabels("policy label", s.GetLabels()); err != nil {
		return nil, err
	}
	if s.GetNetwork() == "" {
		return nil, errors.New("the policy is of no network: name one")
	}
	switch n := len(s.GetRules()); {
	case n == 0:
		return nil, errors.New("the policy has no rules, thus allows nothing that the network does not: give one, or remove the policy")
	case n > MaxRules:
		return nil, fmt.Errorf("there are %d rules: at most %d are allowed in a policy", n, MaxRules)
	}
	for i, r := range s.GetRules() {
		if err := rule(r); err != nil {
			return nil, fmt.Errorf("rule %d: %w", i+1, err)
		}
		for j, q := range s.GetRules()[:i] {
			if proto.Equal(q, r) {
				return nil, fmt.Errorf("rule %d is the same as rule %d: keep one", i+1, j+1)
			}
		}
	}
	return proto.CloneOf(s), nil
}

func rule(r *meshpb.PolicyRule) error {
	for _, name := range []string{r.GetFromService(), r.GetToService()} {
		if err := ident.CheckName(name); err != nil {
			return fmt.Errorf("service: %w", err)
		}
	}
	return traffic(r)
}

// traffic checks protocol and ports of a rule.
func traffic(r *meshpb.PolicyRule) error {
	ports := r.GetFirstPort() != 0 || r.GetLastPort() != 0
	switch r.GetProtocol() {
	case meshpb.Protocol_PROTOCOL_TCP, meshpb.Protocol_PROTOCOL_UDP:
	case meshpb.Protocol_PROTOCOL_UNSPECIFIED, meshpb.Protocol_PROTOCOL_ICMP:
		if ports {
			return errors.New("ports are of tcp or udp: name the protocol, as tcp/5432")
		}
	default:
		return errors.New("the protocol is unknown: use tcp, udp or icmp")
	}
	if ports && (r.GetFirstPort() < 1 || r.GetLastPort() > 65535 || r.GetFirstPort() > r.GetLastPort()) {
		return fmt.Errorf("ports %d-%d: use 1 to 65535, the lower one first", r.GetFirstPort(), r.GetLastPort())
	}
	return nil
}
