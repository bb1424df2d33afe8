package fabric

import (
	"context"
	"errors"
	"time"

	"github.com/vishvananda/netlink"

	"github.com/redoubt-cluster/redoubt/mesh/netd/internal/kernel"
)

// Run keeps the state in force until ctx ends: it puts back what is changed by
// hand, follows the MTU of the underlay, hands a peer's address over to its next key,
// and calls peers that went astray. Start comes before it.
func (f *Fabric) Run(ctx context.Context) error {
	notices, err := kernel.Subscribe(f.ns, kernel.Rulesets, kernel.Routes)
	if err != nil {
		return err
	}
	defer notices.Close()
	tick := time.NewTicker(repairEvery)
	defer tick.Stop()
	turn, following := time.NewTimer(turnEvery), true
	defer turn.Stop()
	astray := time.NewTimer(strayEvery)
	defer astray.Stop()
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-turn.C:
			next := f.followTurns(ctx)
			if following = next > 0; following {
				turn.Reset(next)
			}
			continue
		case <-f.turns:
			if !following { // else it is going to look, after as long as looking costs
				following = true
				turn.Reset(turnEvery)
			}
			continue
		case <-astray.C:
			astray.Reset(f.followStrays(ctx))
			continue
		case <-f.kick:
			if !settled(ctx) {
				return ctx.Err()
			}
			if f.mtuHolds() {
				continue
			}
		case <-tick.C:
		case _, ok := <-notices.C:
			if !ok {
				return errors.New("the kernel's notices about the network ended")
			}
			if !settled(ctx) {
				return ctx.Err()
			}
			if notices.Only(kernel.Rulesets) && f.tableHolds() {
				continue
			}
		}
		f.repair(ctx)
	}
}

// tableHolds reports whether all news of rulesets was of this process's own tables.
func (f *Fabric) tableHolds() bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.closed || f.table.nf == nil {
		return false
	}
	_, ok, err := f.table.nf.Holds(f.table.gen, meshTable())
	return ok && err == nil
}

// settled lets a series of changes end.
func settled(ctx context.Context) bool {
	select {
	case <-ctx.Done():
		return false
	case <-time.After(repairSettle):
		return true
	}
}

// mtuHolds reports whether the peers of now can be reached with the MTU of then.
func (f *Fabric) mtuHolds() bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	holds := false
	f.inside(func(h *netlink.Handle) error {
		mtu, err := f.tunnelMTU(h)
		holds = err == nil && mtu == f.mtu
		return err
	})
	return holds
}

// followTurns wakes the next peers, looks for next keys in use and returns after
// what time to look again; 0: not before there is something to look for (f.turns).
func (f *Fabric) followTurns(ctx context.Context) time.Duration {
	f.mu.Lock()
	defer f.mu.Unlock()
	if ctx.Err() != nil || f.closed || !f.turning() {
		return 0
	}
	if f.driver == nil || f.have == nil {
		return turnEvery
	}
	began := time.Now()
	err := f.inside(func(*netlink.Handle) error {
		if keys := f.asleep; len(keys) > 0 {
			f.asleep = nil
			if err := f.wake(keys); err != nil {
				return err
			}
		}
		before := len(f.turned)
		if err := f.lookForTurns(); err != nil || len(f.turned) == before {
			return err
		}
		return f.settlePeers(nil, func(what string) { f.log.Info("a peer uses its next key", "change", what) })
	})
	if err != nil {
		f.log.Warn("next keys of peers not looked for; it is tried again", "err", err)
	}
	return max(turnEvery, turnFactor*time.Since(began))
}

// repair compares and puts back.
func (f *Fabric) repair(ctx context.Context) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if ctx.Err() != nil || f.closed {
		return
	}
	mtu := f.mtu
	var changes []string
	err := f.inside(func(h *netlink.Handle) (err error) {
		// The kernel's device can be changed by others; nobody else speaks to
		// the embedded one.
		if k, ok := f.driver.(*kernelDriver); ok && f.have != nil {
			s, err := k.read()
			if err != nil {
				f.have = nil
			} else {
				f.have, f.port = f.seen(s), s.port
				if s.public != f.current.public {
					f.have = nil
				}
			}
		}
		changes, err = f.reconcile(h)
		return err
	})
	if err != nil && (f.degraded == nil || f.degraded.Error() != err.Error()) {
		f.log.Error("mesh not restored; it is tried again", "err", err)
	}
	f.degraded = err
	if f.mtu != mtu {
		f.log.Info("followed the MTU of the underlay", "mtu", f.mtu)
	}
	if len(changes) > 0 && f.mtu == mtu {
		f.repairs++
		f.log.Warn("the mesh was changed by somebody and is restored", "changes", changes)
	}
}

// seen is what the kernel's device has, with the endpoints that were declared:
// it has followed the peers since.
func (f *Fabric) seen(s *status) entries {
	have := s.entries()
	for k, e := range have {
		if old, ok := f.have[k]; ok {
			e.endpoint = old.endpoint
			have[k] = e
		}
	}
	return have
}
