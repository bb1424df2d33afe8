package node

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"google.golang.org/grpc/status"

	"github.com/redoubt-cluster/redoubt/autolock/autolockpb"
	"github.com/redoubt-cluster/redoubt/autolock/keyd/keydpb"
	autolockstore "github.com/redoubt-cluster/redoubt/autolock/store"
	"github.com/redoubt-cluster/redoubt/cmd/internal/authority"
	"github.com/redoubt-cluster/redoubt/cmd/internal/control"
	meshstore "github.com/redoubt-cluster/redoubt/mesh/store"
	"github.com/redoubt-cluster/redoubt/pki"
	pkistore "github.com/redoubt-cluster/redoubt/pki/store"
	"github.com/redoubt-cluster/redoubt/raftstore"
	"github.com/redoubt-cluster/redoubt/raftstore/quorum"
	"github.com/redoubt-cluster/redoubt/scheduler"
	"github.com/redoubt-cluster/redoubt/scheduler/dispatcher"
)

// found makes the store of a new cluster and writes its first records. It can
// be cut short anywhere and done again.
func (m *managerState) found(ctx context.Context, boot *pki.Credentials) error {
	n := m.n
	if len(m.store.Servers()) == 0 {
		if err := m.store.Bootstrap(); err != nil {
			return err
		}
	}
	if err := m.awaitLead(ctx); err != nil {
		return err
	}
	st, err := n.keyd.Status(ctx)
	if err != nil {
		return err
	}
	self := n.who()
	err = m.store.Update(m.records().Own(ctx, "init"), func(tx *raftstore.Tx) error {
		if _, ok := pkistore.Cluster.Get(tx, pkistore.ClusterID); ok {
			return nil
		}
		node, err := pki.InitCluster(tx, pki.FirstManager{Name: self.Name, Address: self.Advertise, Leaf: m.creds.Chain(), Boot: boot.Chain()})
		if err != nil {
			return err
		}
		if self.Pools != nil {
			if err := meshstore.SetPools(tx, self.Pools); err != nil {
				return err
			}
		}
		if err := onJoin(tx, node); err != nil {
			return err
		}
		return autolockstore.Slots.Put(tx, &autolockpb.SlotRecord{Id: autolockstore.RecordID, Set: st.GetSlots()})
	})
	if err != nil {
		return fmt.Errorf("the cluster's first records: %w", err)
	}
	return n.remember(func(s *member) { s.Founding, s.Pools = false, nil })
}

// awaitLead waits until this manager leads, as the only one there is will.
func (m *managerState) awaitLead(ctx context.Context) error {
	for !m.store.IsLeader() {
		changed := m.store.LeaderChanged()
		if m.store.IsLeader() {
			break
		}
		select {
		case <-changed:
		case <-m.store.Done():
			return errors.Join(m.store.Err(), raftstore.ErrClosed)
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	return nil
}

// followTable does what a table of the store asks for, at once and at each change,
// until ctx ends. What is not done yet is tried again after growing pauses.
func (m *managerState) followTable(ctx context.Context, table raftstore.Registered, do func(context.Context) (done bool, err error)) error {
	for {
		err := m.watchTable(ctx, table, do)
		if !errors.Is(err, raftstore.ErrLagged) {
			return err
		}
	}
}

func (m *managerState) watchTable(ctx context.Context, table raftstore.Registered, do func(context.Context) (bool, error)) error {
	w, err := m.store.Watch(func(*raftstore.ReadTx) error { return nil }, table)
	if err != nil {
		return err
	}
	defer w.Close()
	pause := resealRetry
	for {
		done, err := do(ctx)
		if err != nil {
			return err
		}
		wait, cancel := ctx, func() {}
		if done {
			pause = resealRetry
		} else { // until then the old key opens this manager, or signs
			wait, cancel = context.WithTimeout(ctx, pause)
			pause = min(2*pause, longestResealRetry)
		}
		_, err = w.Next(wait)
		cancel()
		if err != nil && (ctx.Err() != nil || !errors.Is(err, context.DeadlineExceeded)) {
			return err
		}
	}
}

// A keyd that could not re-seal (a full disk) is asked again after resealRetry,
// doubling up to longestResealRetry.
const resealRetry, longestResealRetry = 5 * time.Second, time.Minute

// reseal brings keyd to the slot set of the store and reports whether it is
// there. `unlock-key slot ls` shows the epoch of one that is not.
func (m *managerState) reseal(ctx context.Context) (bool, error) {
	var want *keydpb.SlotSet
	if err := m.store.View(func(r *raftstore.ReadTx) error {
		rec, _ := autolockstore.Slots.Get(r, autolockstore.RecordID)
		want = rec.GetSet()
		return nil
	}); err != nil {
		return false, err
	}
	st, err := m.n.keyd.Status(ctx)
	if err != nil {
		return false, fmt.Errorf("%w (%v)", errKeydLost, err)
	}
	epoch := st.GetSlots().GetEpoch()
	if want.GetEpoch() > epoch {
		resp, err := m.n.keyd.Reseal(ctx, &keydpb.ResealRequest{Slots: want})
		if err != nil {
			m.n.log.Error("keyd did not take over the unlock slots", "epoch", want.GetEpoch(), "err", err)
		} else {
			epoch = resp.GetEpoch()
			m.n.log.Info("unlock slots taken over", "epoch", epoch)
		}
	}
	if st, err = m.n.keyd.Status(ctx); err != nil {
		return false, fmt.Errorf("%w (%v)", errKeydLost, err)
	}
	lacks := st.GetLacks()
	m.slotsLacking.Store(&lacks)
	m.noteTicket(ctx)
	m.slotEpoch.Store(epoch)
	m.n.lookAgain()
	m.storeKeyDue() // an old copy opens with an old credential
	return epoch >= want.GetEpoch(), nil
}

// lead is the leader's work, until ctx ends.
func (m *managerState) lead(ctx context.Context, d *dispatcher.Dispatcher, ca *authority.Server, api *control.Server) {
	var wg sync.WaitGroup
	run := func(name string, f func(context.Context) error) {
		wg.Go(func() {
			if err := f(ctx); err != nil && ctx.Err() == nil {
				m.n.log.Error("a part of the leader's work stopped: handing over", "part", name, "err", err)
				if err := m.store.TransferLeadership(ctx); err != nil {
					m.n.log.Error("leadership was not handed over", "err", err)
				}
			}
		})
	}
	run("dispatcher", d.Run)
	own := m.records().Own
	run("scheduler", func(ctx context.Context) error {
		return scheduler.Run(ctx, scheduler.Config{Store: m.store, Logger: m.n.log.With("part", "scheduler"), Own: own})
	})
	run("clock", m.clocks.untilWrong)
	run("certificates", func(ctx context.Context) error { return m.adoptLeaves(own(ctx, "certificates")) })
	run("revocation lists", func(ctx context.Context) error {
		return pki.RunRevocationLists(own(ctx, "revocation lists"), pki.ListsConfig{Store: m.store, Signer: timedSigner{signer{keyd: m.n.keyd}, m.clocks.mayLead, m.newestKeyset}, Logger: m.n.log.With("part", "revocation")})
	})
	run("authorities", func(ctx context.Context) error { return ca.Run(own(ctx, "authorities")) })
	run("membership", func(ctx context.Context) error { return m.spreadMembership(ctx, d) })
	run("checkpoints", m.keepCheckpoints)
	run("audit witnesses", m.keepWitnessed)
	run("reports", func(ctx context.Context) error { return m.keepReports(ctx, api) })
	run("quorum", func(ctx context.Context) error { return m.keepQuorum(ctx, d) })
	wg.Wait()
}

// keepQuorum gives the managers their votes.
func (m *managerState) keepQuorum(ctx context.Context, d *dispatcher.Dispatcher) error {
	quorum.Run(ctx, quorum.Config{Store: m.store, Logger: m.n.log.With("part", "quorum"), Managers: func() ([]quorum.Manager, error) {
		up := map[string]bool{}
		for _, s := range d.Sessions() {
			up[s.NodeID] = s.AppliedIndex > 0
		}
		var managers []quorum.Manager
		err := m.store.View(func(r *raftstore.ReadTx) error {
			for node := range pkistore.Nodes.By(r, "role", "manager") {
				if !node.GetDenied() {
					managers = append(managers, quorum.Manager{ID: node.GetId(), Addr: node.GetAddress(), Up: up[node.GetId()]})
				}
			}
			return nil
		})
		return managers, err
	}})
	return nil
}

// messageOf strips a gRPC status down to its message.
func messageOf(err error) error {
	if s, ok := status.FromError(err); ok && err != nil {
		return errors.New(s.Message())
	}
	return err
}
