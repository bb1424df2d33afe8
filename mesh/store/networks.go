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
	return Settings.Put(tx, &meshpb.Settings{Id: settingsID, Pools: p})
}

// Pools are those in force.
func Pools(r raftstore.Reader, clusterID string) (*meshpb.Pools, error) {
	record, _ := Settings.Get(r, settingsID)
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

// NodeFeature tells of a network which feature a node has to report for tasks on
// it to be placed there; empty: none.
func NodeFeature(r raftstore.Reader) func(network string) string {
	return func(network string) string {
		n, ok := Networks.Get(r, network)
		if !ok {
			return spec.MeshFeature
		}
		return spec.NodeFeature(n.GetSpec())
	}
}

// CreateNetwork stores a network that package spec accepted, under a new id, and,
// where the mesh makes it, with a VNI and what subnets it lacks from the pools.
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
		n := &meshpb.Network{Id: id, Spec: sp, Kind: spec.Kind(sp.GetDriver())}
		if err := IPAMOf(n).Complete(g, n); err != nil {
			return err
		}
		if err := Networks.Put(tx, n); err != nil {
			return err
		}
		return Settings.Put(tx, g.record)
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
	n := &meshpb.Network{
		Id: ident.New(), Spec: &meshpb.NetworkSpec{Name: "ingress-" + serviceID, Driver: spec.Overlay, Ipv6: true},
		Kind: meshpb.Kind_KIND_INGRESS, ServiceId: serviceID,
	}
	for _, pool := range []string{g.pools.GetIngress(), g.pools.GetIngress6()} {
		p, err := netip.ParsePrefix(pool)
		if err != nil {
			return err
		}
		n.Subnets = append(n.Subnets, whole(p))
	}
	if n.Vni, err = g.vni(); err != nil {
		return err
	}
	if err := Networks.Put(tx, n); err != nil {
		return err
	}
	return Settings.Put(tx, g.record)
}

// Ingress is the network that carries a service's published ports; nil: it has
// none.
func Ingress(r raftstore.Reader, serviceID string) *meshpb.Network {
	for n := range Networks.By(r, "service", serviceID) {
		return n
	}
	return nil
}

// DeleteIngress removes what CreateIngress made, in the transaction in which the
// service ends or publishes nothing any more.
func DeleteIngress(tx *raftstore.Tx, serviceID string) error {
	n := Ingress(tx, serviceID)
	if n == nil {
		return nil
	}
	return Networks.Delete(tx, n.GetId())
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

// Giver gives out VNIs and subnets in one transaction.
type Giver struct {
	tx     *raftstore.Tx
	record *meshpb.Settings
	pools  *meshpb.Pools
}

// take begins to give out. That the record is written makes two who do so at the
// same moment conflict.
func take(tx *raftstore.Tx, clusterID string) (*Giver, error) {
	old, _ := Settings.Get(tx, settingsID)
	g := &Giver{tx: tx, record: proto.CloneOf(old)}
	if g.record == nil {
		g.record = &meshpb.Settings{Id: settingsID}
	}
	g.record.Given++
	var err error
	g.pools, err = spec.Pools(g.record.GetPools(), clusterID)
	return g, err
}

// vni is the next one behind the last that nobody has.
func (g *Giver) vni() (uint32, error) {
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
