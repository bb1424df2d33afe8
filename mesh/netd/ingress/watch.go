package ingress

import (
	"context"
	"errors"
	"time"

	"github.com/redoubt-cluster/redoubt/mesh/netd/internal/kernel"
)

// Run keeps the state in force until ctx ends: it puts back what is changed by
// hand, follows the mesh's interface, and looks again at what failed.
func (i *Ingress) Run(ctx context.Context) error {
	outside, err := kernel.Subscribe(i.ns, kernel.Rulesets, kernel.Routes)
	if err != nil {
		return err
	}
	defer outside.Close()
	var inside *kernel.Notices
	var of kernel.Identity
	defer func() {
		if inside != nil {
			inside.Close()
		}
	}()
	tick := time.NewTicker(repairEvery)
	defer tick.Stop()
	for {
		// The namespace may be another one by now.
		if id, ok := i.current(); ok && (inside == nil || id != of) {
			if inside != nil {
				inside.Close()
			}
			if inside, err = i.subscribe(); err != nil {
				return err
			}
			of = id
		}
		all := false
		var news <-chan struct{}
		if inside != nil {
			news = inside.C
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-tick.C:
			all = true
		case _, ok := <-outside.C:
			if !ok {
				return errors.New("the kernel's notices about the network ended")
			}
		case _, ok := <-news:
			if !ok {
				inside, all = nil, true
			}
		}
		if !settled(ctx) {
			return ctx.Err()
		}
		only := outside.Only(kernel.Rulesets)
		if inside != nil {
			only = inside.Only(kernel.Rulesets) && only
		}
		if !all && only && i.tablesHold() {
			continue
		}
		i.repair(ctx)
	}
}

// tablesHold reports whether all news of rulesets was of this process's own tables,
// and nothing is to be tried again.
func (i *Ingress) tablesHold() bool {
	i.mu.Lock()
	defer i.mu.Unlock()
	if i.closed || i.degraded != nil || i.nf == nil || !i.known {
		return false
	}
	return i.outer.holds(i.nf) && i.inner.holds(i.inside)
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

// current is the namespace in use.
func (i *Ingress) current() (kernel.Identity, bool) {
	i.mu.Lock()
	defer i.mu.Unlock()
	return i.identity, i.known
}

func (i *Ingress) subscribe() (*kernel.Notices, error) {
	i.mu.Lock()
	defer i.mu.Unlock()
	if i.closed {
		return nil, nil
	}
	ns, err := i.open()
	if err != nil {
		return nil, nil // the next look says so
	}
	defer ns.Close()
	return kernel.Subscribe(ns, kernel.Rulesets, kernel.Routes)
}

// repair compares and puts back.
func (i *Ingress) repair(ctx context.Context) {
	i.mu.Lock()
	defer i.mu.Unlock()
	if ctx.Err() != nil || i.closed || i.plan.generation == 0 {
		return
	}
	if !i.plan.wanted() && i.degraded == nil {
		return // nothing of ours is there
	}
	i.have = nil // as somebody may have changed it
	repaired, err := i.reconcile(ctx, i.plan)
	if err != nil && (i.degraded == nil || i.degraded.Error() != err.Error()) {
		i.log.Error("ingress not restored; it is tried again", "err", err)
	}
	i.degraded = err
	if repaired {
		i.repairs++
		i.log.Warn("ingress was changed by somebody and is restored")
	}
}
