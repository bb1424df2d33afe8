package store

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"

	"google.golang.org/protobuf/proto"

	"github.com/redoubt-cluster/redoubt/mesh/ipam"
	"github.com/redoubt-cluster/redoubt/mesh/meshpb"
	meshspec "github.com/redoubt-cluster/redoubt/mesh/spec"
	meshstore "github.com/redoubt-cluster/redoubt/mesh/store"
	"github.com/redoubt-cluster/redoubt/raftstore"
	"github.com/redoubt-cluster/redoubt/raftstore/resolve"
	"github.com/redoubt-cluster/redoubt/scheduler/schedulerpb"
	"github.com/redoubt-cluster/redoubt/scheduler/taskpb"
)

// addressKeys are the keys of attachments in a unique index.
func addressKeys(as []*taskpb.Attachment) (out []string) {
	for _, a := range as {
		for _, text := range a.GetAddresses() {
			if k := ipam.KeyOf(text); k != "" {
				out = append(out, k)
			}
		}
	}
	return out
}

// takenBy reads what an index has of addresses.
func takenBy[T raftstore.Object](tx *raftstore.Tx, t *raftstore.Table[T], index string, of func(T) []*taskpb.Attachment) ipam.Taken {
	return func(prefix string, mark func(string)) {
		for o := range t.ByPrefix(tx, index, prefix) {
			for _, k := range addressKeys(of(o)) {
				mark(k)
			}
		}
	}
}

// Attach gives a task its addresses on the networks of its revision, and with
// ingress on that of the service's published ports, in the transaction that gives
// it its node and before it is written. That transaction has to have read the
// service (by Get): it then conflicts with the service's removal, which has to
// come before that of the networks, and with the end of what it publishes.
func Attach(tx *raftstore.Tx, t *schedulerpb.Task, uses []*taskpb.NetworkUse, ingress bool) error {
	t.Attachments = nil
	if len(uses) == 0 && !ingress {
		return nil
	}
	taken := takenBy(tx, Tasks, "address", (*schedulerpb.Task).GetAttachments)
	for _, u := range uses {
		n, ok := meshstore.Networks.Get(tx, u.GetNetwork())
		if !ok {
			return fmt.Errorf("network %s is gone: update the service", u.GetNetwork())
		}
		addresses, err := meshstore.Pick(n, t.GetId(), ipam.Endpoints, taken)
		if err != nil {
			return err
		}
		t.Attachments = append(t.Attachments, &taskpb.Attachment{NetworkId: n.GetId(), Addresses: addresses})
	}
	if ingress {
		n := meshstore.Ingress(tx, t.GetServiceId())
		if n == nil {
			return errors.New("its service publishes nothing any more: it is about to be replaced")
		}
		addresses, err := meshstore.Pick(n, t.GetId(), ipam.Shared, taken)
		if ex := (*meshstore.ExhaustedError)(nil); errors.As(err, &ex) {
			return fmt.Errorf("no address is free for a task with published ports: all %d of %s are taken", ex.Room, ex.Subnet)
		}
		if err != nil {
			return err
		}
		t.Attachments = append(t.Attachments, &taskpb.Attachment{NetworkId: n.GetId(), Addresses: addresses})
	}
	return nil
}

// attach returns a service's spec with its networks by id, and its virtual
// addresses on them: those that it has, and new ones. In mode dnsrr it has those that
// it had before, and keeps them for as long as lingering says.
func attach(tx *raftstore.Tx, id string, sp *schedulerpb.ServiceSpec, old *schedulerpb.Service) (*schedulerpb.ServiceSpec, []*taskpb.Attachment, error) {
	if len(sp.GetTask().GetNetworks()) == 0 {
		return sp, nil, nil
	}
	sp = proto.CloneOf(sp)
	var vips []*taskpb.Attachment
	seen, ungiven := map[string]bool{}, 0
	for _, u := range sp.Task.Networks {
		n, err := use(tx, u.Network, old)
		if err != nil {
			return nil, nil, err
		}
		if seen[n.GetId()] {
			return nil, nil, refuse("network %s is given twice: keep one, with all aliases", n.GetSpec().GetName())
		}
		seen[n.GetId()], u.Network = true, n.GetId()
		if n.GetSpec().GetDriver() == meshspec.NoNetwork && len(sp.Task.Networks) > 1 {
			return nil, nil, refuse("network %s is of driver %s: a service on it is on no other: leave one out", n.GetSpec().GetName(), meshspec.NoNetwork)
		}
		if n.GetSpec().GetDriver() == meshspec.NoNetwork && len(sp.Task.GetPorts()) > 0 {
			return nil, nil, refuse("network %s is of driver %s, on which nothing is reached: leave the published ports out, or use another network", n.GetSpec().GetName(), meshspec.NoNetwork)
		}
		if len(n.GetSubnets()) == 0 { // its addresses are not the store's to give
			if ungiven++; ungiven > meshspec.MaxLocal {
				return nil, nil, refuse("%d of its networks are made by nodes' own drivers: at most %d can be", ungiven, meshspec.MaxLocal)
			}
			continue
		}
		i := slices.IndexFunc(old.GetVips(), func(a *taskpb.Attachment) bool { return a.GetNetworkId() == n.GetId() })
		if i >= 0 {
			vips = append(vips, old.GetVips()[i])
			continue
		}
		if sp.GetEndpointMode() != schedulerpb.EndpointMode_ENDPOINT_MODE_VIP {
			continue
		}
		addresses, err := meshstore.Pick(n, id, ipam.VIPs, takenBy(tx, Services, "vip", (*schedulerpb.Service).GetVips))
		if ex := (*meshstore.ExhaustedError)(nil); errors.As(err, &ex) {
			return nil, nil, refuse("network %s has no virtual address left, all %d are taken: use --endpoint-mode dnsrr, or another network", ex.Network, ex.Room)
		}
		if err != nil {
			return nil, nil, err
		}
		vips = append(vips, &taskpb.Attachment{NetworkId: n.GetId(), Addresses: addresses})
	}
	return sp, vips, nil
}

// use finds a network of a service. Only where the service was not on it before
// does the network have to know.
func use(tx *raftstore.Tx, ref string, old *schedulerpb.Service) (*meshpb.Network, error) {
	n, err := meshstore.ResolveNetwork(tx, ref)
	if err != nil {
		return nil, err
	}
	if slices.ContainsFunc(old.GetSpec().GetTask().GetNetworks(), func(u *taskpb.NetworkUse) bool { return u.GetNetwork() == n.GetId() }) {
		return n, nil
	}
	return meshstore.Use(tx, n.GetId())
}

// OnNetwork yields the tasks that may have a container on a network.
func OnNetwork(r raftstore.Reader, n *meshpb.Network, yield func(*schedulerpb.Task) bool) {
	if len(n.GetSubnets()) == 0 {
		for t := range Tasks.By(r, "local", n.GetId()) {
			if !yield(t) {
				return
			}
		}
		return
	}
	p, err := netip.ParsePrefix(n.GetSubnets()[0].GetSubnet())
	if err != nil {
		return
	}
	for _, prefix := range ipam.Prefixes(p) {
		for t := range Tasks.ByPrefix(r, "address", prefix) {
			here := func(a *taskpb.Attachment) bool { return a.GetNetworkId() == n.GetId() }
			if slices.ContainsFunc(t.GetAttachments(), here) && !yield(t) {
				return
			}
		}
	}
}

// UsersOf are the services on a network, by name, at most as many.
func UsersOf(r raftstore.Reader, n *meshpb.Network, most int) (names []string) {
	for s := range Services.By(r, "network", n.GetId()) {
		if len(names) == most {
			break
		}
		names = append(names, s.GetSpec().GetName())
	}
	slices.Sort(names)
	return names
}

// RemoveNetwork deletes the network that ref stands for, with its policies, and
// returns its id. It is refused while a service is on it, or a task that may
// still have a container.
func RemoveNetwork(ctx context.Context, s *raftstore.Store, ref string) (id string, err error) {
	err = s.Update(ctx, func(tx *raftstore.Tx) error {
		n, err := meshstore.ResolveNetwork(tx, ref)
		if err != nil {
			return err
		}
		id = n.GetId()
		if names := UsersOf(tx, n, 1); len(names) > 0 {
			return refuse("network %s is in use by service %s: remove the service or take it off the network first", n.GetSpec().GetName(), names[0])
		}
		if n.GetKind() != meshpb.Kind_KIND_INGRESS {
			var left *schedulerpb.Task
			OnNetwork(tx, n, func(t *schedulerpb.Task) bool { left = t; return false })
			if left != nil {
				return refuse("network %s still has task %s on it, which is stopping: try again when it has", n.GetSpec().GetName(), left.GetId())
			}
		}
		return meshstore.DeleteNetwork(tx, n)
	})
	if dead := (*resolve.Error)(nil); errors.As(err, &dead) {
		return "", err
	}
	return id, err
}
