package store

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"strconv"

	"google.golang.org/protobuf/proto"

	"github.com/redoubt-cluster/redoubt/internal/ident"
	"github.com/redoubt-cluster/redoubt/mesh/meshpb"
	"github.com/redoubt-cluster/redoubt/mesh/spec"
	"github.com/redoubt-cluster/redoubt/raftstore"
	"github.com/redoubt-cluster/redoubt/raftstore/resolve"
)

// RefusedError is a change that breaks a rule; its text is for who asked.
type RefusedError struct{ text string }

func (e *RefusedError) Error() string { return e.text }

func refuse(format string, args ...any) error {
	return &RefusedError{fmt.Sprintf(format, args...)}
}

// SetPools says where the cluster's numbers come from, in the transaction that
// makes the cluster: before any was given. Package spec has accepted the pools.
func SetPools(tx *raftstore.Tx, p *meshpb.Pools) error {
	return settings.Put(tx, &meshpb.Settings{Id: settingsID, Pools: p})
}

// Pools are those in force.
func Pools(r raftstore.Reader, clusterID string) (*meshpb.Pools, error) {
	record, _ := settings.Get(r, settingsID)
	return spec.Pools(record.GetPools(), clusterID)
}

// Retry is an Update in which numbers are given out. Two that were composed at the
// same moment may have chosen the same one, of which the later is told so when it
// is written: it chooses again.
func Retry(ctx context.Context, s *raftstore.Store, fn func(*raftstore.Tx) error) error {
	var err error
	for range maxAttempts {
		err = s.Update(ctx, fn)
		dup := (*raftstore.DuplicateError)(nil)
		if !errors.As(err, &dup) || dup.Index != "vni" && dup.Index != "address" && dup.Index != "vip" {
			return err
		}
	}
	return err
}

// CreateNetwork stores a network that package spec accepted, under a new id, with
// a VNI and what subnets it lacks from the pools.
func CreateNetwork(ctx context.Context, s *raftstore.Store, clusterID string, sp *meshpb.NetworkSpec) (string, error) {
	id := ident.New()
	err := Retry(ctx, s, func(tx *raftstore.Tx) error {
		if Networks.Count(tx) >= spec.MaxNetworks {
			return refuse("there are %d networks, as many as may be: remove some", spec.MaxNetworks)
		}
		g, err := take(tx, clusterID)
		if err != nil {
			return err
		}
		n := &meshpb.Network{Id: id, Spec: sp, Kind: meshpb.Kind_KIND_OVERLAY}
		if n.Subnets, err = g.subnets(sp); err != nil {
			return err
		}
		if n.Vni, err = g.vni(); err != nil {
			return err
		}
		if err := Networks.Put(tx, n); err != nil {
			return err
		}
		return settings.Put(tx, g.record)
	})
	if dup := (*raftstore.DuplicateError)(nil); errors.As(err, &dup) && dup.Index == "name" {
		return "", fmt.Errorf("a network named %q exists already: choose another name: %w", sp.GetName(), err)
	}
	if err != nil {
		return "", err
	}
	return id, nil
}

// CreateIngress makes the network that carries a service's published ports, in
// the transaction that makes the service.
func CreateIngress(tx *raftstore.Tx, clusterID, serviceID string) error {
	g, err := take(tx, clusterID)
	if err != nil {
		return err
	}
	p, err := netip.ParsePrefix(g.pools.GetIngress())
	if err != nil {
		return err
	}
	n := &meshpb.Network{
		Id: ident.New(), Spec: &meshpb.NetworkSpec{Name: "ingress-" + serviceID, Driver: spec.Overlay},
		Kind: meshpb.Kind_KIND_INGRESS, ServiceId: serviceID,
		Subnets: []*meshpb.Subnet{{Subnet: p.String(), Gateway: p.Addr().Next().String()}},
	}
	if n.Vni, err = g.vni(); err != nil {
		return err
	}
	if err := Networks.Put(tx, n); err != nil {
		return err
	}
	return settings.Put(tx, g.record)
}

// DeleteIngress removes what CreateIngress made, in the transaction that removes
// the service.
func DeleteIngress(tx *raftstore.Tx, serviceID string) error {
	for n := range Networks.By(tx, "service", serviceID) {
		if err := Networks.Delete(tx, n.GetId()); err != nil {
			return err
		}
	}
	return nil
}

// ResolveNetwork finds a network by id, name or unique prefix of its id.
func ResolveNetwork(r raftstore.Reader, ref string) (*meshpb.Network, error) {
	return resolve.Named("network", Networks, r, ref)
}

// Use finds a network for something that will refer to it, and sees that the
// network cannot be removed by whoever does not know of that yet.
func Use(tx *raftstore.Tx, ref string) (*meshpb.Network, error) {
	n, err := ResolveNetwork(tx, ref)
	if err != nil {
		return nil, err
	}
	if n.GetKind() == meshpb.Kind_KIND_INGRESS {
		return nil, refuse("network %s carries a service's published ports: use another", n.GetSpec().GetName())
	}
	if n.GetSpec().GetDriver() != spec.Overlay {
		return nil, refuse("network %s is of driver %s, which spans no nodes: use one of driver %s", n.GetSpec().GetName(), n.GetSpec().GetDriver(), spec.Overlay)
	}
	n = proto.CloneOf(n)
	n.Uses++
	return n, Networks.Put(tx, n)
}

// DeleteNetwork removes a network and its policies. The caller has seen in the
// same transaction that no service is on it, and no task.
func DeleteNetwork(tx *raftstore.Tx, n *meshpb.Network) error {
	if n.GetKind() == meshpb.Kind_KIND_INGRESS {
		return refuse("network %s carries a service's published ports: it goes with the service", n.GetSpec().GetName())
	}
	for p := range Policies.By(tx, "network", n.GetId()) {
		if err := Policies.Delete(tx, p.GetId()); err != nil {
			return err
		}
	}
	return Networks.Delete(tx, n.GetId())
}

// giver gives out VNIs and subnets in one transaction.
type giver struct {
	tx     *raftstore.Tx
	record *meshpb.Settings
	pools  *meshpb.Pools
}

// take begins to give out. That the record is written makes two who do so at the
// same moment conflict.
func take(tx *raftstore.Tx, clusterID string) (*giver, error) {
	old, _ := settings.Get(tx, settingsID)
	g := &giver{tx: tx, record: proto.CloneOf(old)}
	if g.record == nil {
		g.record = &meshpb.Settings{Id: settingsID}
	}
	g.record.Given++
	var err error
	g.pools, err = spec.Pools(g.record.GetPools(), clusterID)
	return g, err
}

// vni is the next one behind the last that nobody has.
func (g *giver) vni() (uint32, error) {
	n := g.record.GetLastVni()
	for range spec.MaxNetworks + maxIngress + 1 {
		if n++; n > maxVNI || n < minVNI {
			n = minVNI
		}
		held := false
		for range Networks.By(g.tx, "vni", strconv.FormatUint(uint64(n), 10)) {
			held = true
		}
		if !held {
			g.record.LastVni = n
			return n, nil
		}
	}
	return 0, refuse("no VNI is free: remove networks")
}
