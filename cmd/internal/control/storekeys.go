package control

import (
	"errors"
	"slices"
	"strings"

	"github.com/redoubt-cluster/redoubt/autolock/autolockpb"
	autolockstore "github.com/redoubt-cluster/redoubt/autolock/store"
	"github.com/redoubt-cluster/redoubt/cmd/internal/control/apierr"
	"github.com/redoubt-cluster/redoubt/cmd/internal/control/controlpb"
	"github.com/redoubt-cluster/redoubt/pki/pkipb"
	"github.com/redoubt-cluster/redoubt/pki/profile/profilepb"
	pkistore "github.com/redoubt-cluster/redoubt/pki/store"
	"github.com/redoubt-cluster/redoubt/raftstore"
	schedstore "github.com/redoubt-cluster/redoubt/scheduler/store"
)

// RotateStoreKeys commits that managers' stores shall have new keys, and reports
// until they have. Each manager renews its own by itself, one that is away when it is
// back. With watch it reports once how far all are.
func (s *Server) RotateStoreKeys(req *controlpb.RotateStoreKeysRequest, stream controlpb.Control_RotateStoreKeysServer) error {
	ctx := stream.Context()
	if len(req.GetNodes()) > raftstore.MaxManagers {
		return apierr.Invalid("", "more than %d managers are named", raftstore.MaxManagers)
	}
	if req.GetWatch() {
		msg := &controlpb.RotateStoreKeysResponse{}
		if err := s.view(ctx, func(r *raftstore.ReadTx) (err error) {
			msg.Managers, err = s.storeKeys(r, req.GetNodes())
			return err
		}); err != nil {
			return err
		}
		msg.Done = !slices.ContainsFunc(msg.Managers, notRenewed)
		return stream.Send(msg)
	}
	var asked []*controlpb.StoreKeyProgress
	err := s.update(ctx, func(tx *raftstore.Tx) (err error) {
		if tx.Level() < autolockstore.StoreKeys.Since() {
			return apierr.State("upgrade every manager: `redoubt status` says which are left", "a manager of an older version could not open its store with a new key")
		}
		if asked, err = s.storeKeys(tx, req.GetNodes()); err != nil {
			return err
		}
		for _, m := range asked {
			if err := orderStoreKey(tx, m); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return err
	}
	for _, m := range asked {
		s.c.Logger.InfoContext(ctx, "a new key for a store was asked for", "manager", m.GetNodeId(), "epoch", m.GetWanted())
	}
	return s.reportStoreKeys(stream, asked)
}

// storeKeys are the named managers, or all, with their keys as they last said, by
// name.
func (s *Server) storeKeys(r raftstore.Reader, refs []string) (out []*controlpb.StoreKeyProgress, err error) {
	var nodes []*pkipb.Node
	for _, ref := range refs {
		n, err := resolveNode(r, ref)
		switch {
		case err != nil:
			return nil, err
		case n.GetRole() != profilepb.Role_ROLE_MANAGER:
			return nil, apierr.Invalid("", "%s is a worker: it has no store", n.GetName())
		case slices.ContainsFunc(nodes, func(o *pkipb.Node) bool { return o.GetId() == n.GetId() }):
			return nil, apierr.Invalid("", "%s is named twice", n.GetName())
		}
		nodes = append(nodes, n)
	}
	if len(refs) == 0 {
		for n := range pkistore.Nodes.By(r, "role", "manager") {
			if !n.GetDenied() {
				nodes = append(nodes, n)
			}
		}
	}
	connected := s.connected()
	for _, n := range nodes {
		sched, _ := schedstore.Nodes.Get(r, n.GetId())
		order, _ := autolockstore.StoreKeys.Get(r, n.GetId())
		out = append(out, &controlpb.StoreKeyProgress{NodeId: n.GetId(), Name: n.GetName(), Reachable: connected[n.GetId()],
			Wanted: order.GetEpoch(), Key: sched.GetDescription().GetStoreKey()})
	}
	slices.SortFunc(out, func(a, b *controlpb.StoreKeyProgress) int {
		return strings.Compare(a.GetName()+a.GetNodeId(), b.GetName()+b.GetNodeId())
	})
	return out, nil
}

// orderStoreKey asks for the key after the one a manager says it has, and sets that
// in m. Where a renewal is under way, that is the one that was asked for.
func orderStoreKey(tx *raftstore.Tx, m *controlpb.StoreKeyProgress) error {
	key := m.GetKey()
	if key.GetEpoch() == 0 {
		return apierr.State("try again when it is up: `redoubt store ls`", "manager %s has not said yet which key its store has", m.GetName())
	}
	want := key.GetEpoch()
	if key.GetFormerEpoch() == 0 {
		want++
	}
	m.Wanted = max(m.GetWanted(), want)
	order := &autolockpb.StoreKeyOrder{Id: m.GetNodeId(), Epoch: m.GetWanted()}
	if old, ok := autolockstore.StoreKeys.Get(tx, m.GetNodeId()); ok {
		if old.GetEpoch() == order.GetEpoch() {
			return nil
		}
		order.Meta = old.GetMeta()
	}
	return autolockstore.StoreKeys.Put(tx, order)
}

// notRenewed reports whether a manager has not done yet what was asked for.
func notRenewed(m *controlpb.StoreKeyProgress) bool {
	return m.GetKey().GetEpoch() < m.GetWanted() || m.GetKey().GetFormerEpoch() != 0
}

func (s *Server) reportStoreKeys(stream controlpb.Control_RotateStoreKeysServer, asked []*controlpb.StoreKeyProgress) error {
	for {
		w, err := s.c.Store.Watch(func(*raftstore.ReadTx) error { return nil }, schedstore.Nodes)
		if err != nil {
			return err
		}
		done, err := s.followStoreKeys(stream, w, asked)
		w.Close()
		if done || !errors.Is(err, raftstore.ErrLagged) {
			return err
		}
	}
}

func (s *Server) followStoreKeys(stream controlpb.Control_RotateStoreKeysServer, w *raftstore.Watch, asked []*controlpb.StoreKeyProgress) (done bool, err error) {
	for {
		msg := &controlpb.RotateStoreKeysResponse{}
		connected := s.connected()
		if err := s.c.Store.View(func(r *raftstore.ReadTx) error {
			for _, m := range asked {
				if _, ok := pkistore.Nodes.Get(r, m.GetNodeId()); !ok {
					continue // it left
				}
				sched, _ := schedstore.Nodes.Get(r, m.GetNodeId())
				msg.Managers = append(msg.Managers, &controlpb.StoreKeyProgress{NodeId: m.GetNodeId(), Name: m.GetName(), Wanted: m.GetWanted(),
					Reachable: connected[m.GetNodeId()], Key: sched.GetDescription().GetStoreKey()})
			}
			return nil
		}); err != nil {
			return false, err
		}
		msg.Done = !slices.ContainsFunc(msg.Managers, notRenewed)
		if err := stream.Send(msg); err != nil || msg.Done {
			return msg.Done, err
		}
		if _, err := w.Next(stream.Context()); err != nil {
			return false, err
		}
	}
}
