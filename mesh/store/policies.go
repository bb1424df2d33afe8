package store

import (
	"context"
	"errors"
	"fmt"

	"google.golang.org/protobuf/proto"

	"github.com/redoubt-cluster/redoubt/internal/ident"
	"github.com/redoubt-cluster/redoubt/mesh/meshpb"
	"github.com/redoubt-cluster/redoubt/mesh/spec"
	"github.com/redoubt-cluster/redoubt/raftstore"
	"github.com/redoubt-cluster/redoubt/raftstore/resolve"
)

// CreatePolicy stores a policy that package spec accepted, under a new id. The
// services that it names need not be there yet.
func CreatePolicy(ctx context.Context, s *raftstore.Store, sp *meshpb.PolicySpec) (string, error) {
	id := ident.New()
	err := s.Update(ctx, func(tx *raftstore.Tx) error {
		if Policies.Count(tx) >= spec.MaxPolicies {
			return refuse("there are %d policies, as many as may be: remove some", spec.MaxPolicies)
		}
		n, err := Use(tx, sp.GetNetwork())
		if err != nil {
			return err
		}
		if !spec.Given(n.GetSpec().GetDriver()) {
			return refuse("policies have no effect on network %s, which is of driver %s: use one of driver %s", n.GetSpec().GetName(), n.GetSpec().GetDriver(), spec.Overlay)
		}
		rules := len(sp.GetRules())
		for p := range Policies.By(tx, "network", n.GetId()) {
			rules += len(p.GetSpec().GetRules())
		}
		if rules > spec.MaxNetworkRules {
			return refuse("network %s would have %d rules: at most %d are allowed in all of its policies", n.GetSpec().GetName(), rules, spec.MaxNetworkRules)
		}
		stored := proto.CloneOf(sp)
		stored.Network = n.GetId()
		return Policies.Put(tx, &meshpb.Policy{Id: id, Spec: stored})
	})
	if dup := (*raftstore.DuplicateError)(nil); errors.As(err, &dup) && dup.Index == "name" {
		return "", fmt.Errorf("a policy named %q exists already: choose another name: %w", sp.GetName(), err)
	}
	if err != nil {
		return "", err
	}
	return id, nil
}

// ResolvePolicy finds a policy by id, name or unique prefix of its id.
func ResolvePolicy(r raftstore.Reader, ref string) (*meshpb.Policy, error) {
	return resolve.Named("policy", Policies, r, ref)
}

// RemovePolicy deletes the policy that ref stands for and returns its id.
func RemovePolicy(ctx context.Context, s *raftstore.Store, ref string) (id string, err error) {
	err = s.Update(ctx, func(tx *raftstore.Tx) error {
		p, err := ResolvePolicy(tx, ref)
		if err != nil {
			return err
		}
		id = p.GetId()
		return Policies.Delete(tx, id)
	})
	return id, err
}
