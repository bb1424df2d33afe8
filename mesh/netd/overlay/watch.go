package overlay

import (
	"context"
	"errors"
	"time"

	"github.com/redoubt-cluster/redoubt/mesh/netd/internal/kernel"
)

// Run keeps the networks as they were declared until ctx ends: it puts back what
// is changed by hand, follows the node's end of the tunnels, and tries what failed
// again.
func (o *Overlays) Run(ctx context.Context) error {
	node, err := kernel.Subscribe(o.ns, kernel.Routes)
	if err != nil {
		return err
	}
	defer node.Close()
	tick := time.NewTicker(lookEvery)
	defer tick.Stop()
	retry := time.NewTimer(lookEvery)
	defer retry.Stop()
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-tick.C:
		case <-retry.C:
		case <-o.kick:
			if !settled(ctx) {
				return ctx.Err()
			}
		case _, ok := <-node.C:
			if !ok {
				return errors.New("the kernel's notices about the network ended")
			}
			if !settled(ctx) {
				return ctx.Err()
			}
		}
		retry.Reset(o.look(ctx))
	}
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

// look compares where there is reason to, and returns after what time something
// is to be tried again.
func (o *Overlays) look(ctx context.Context) time.Duration {
	o.mu.Lock()
	defer o.mu.Unlock()
	if ctx.Err() != nil || o.closed || o.plan.generation == 0 {
		return lookEvery
	}
	if o.strays {
		o.removeStrays()
	}
	before, was := o.tunnel, o.blocked
	o.findTunnel()
	moved := o.tunnel != before || (o.blocked == nil) != (was == nil)
	if moved && o.blocked == nil && was == nil && before != (tunnel{}) {
		o.log.Info("networks follow the mesh's interface", "mtu", o.tunnel.mtu)
	}
	now := time.Now()
	checks, retries := map[string]*touched{}, map[string]*touched{}
	sweep := 1 + len(o.realms)*int(lookEvery)/int(sweepWithin)
	for id, r := range o.realms {
		news := r.news.Swap(0)
		switch {
		case moved:
			retries[id] = &touched{whole: true}
		case !r.retryAt.IsZero():
			if now.Before(r.retryAt) {
				break
			}
			t := &touched{whole: r.err != nil, tasks: map[string]bool{}, addrs: nil}
			for task := range r.bad {
				t.name(r.net.endpoints[task])
			}
			retries[id] = t
		case news&newsPaths != 0 || r.deaf.Load():
			checks[id] = &touched{whole: true}
		case news&newsRules != 0:
			r.ensure(ctx)
		case sweep > 0 && now.Sub(r.swept) > sweepWithin:
			sweep--
			checks[id] = &touched{whole: true}
		}
	}
	if len(retries) > 0 {
		o.apply(ctx, retries)
	}
	if len(checks) > 0 {
		o.apply(ctx, checks)
	}
	for id := range checks {
		o.noteRepair(o.realms[id])
	}
	return o.nextRetry(now)
}

// name adds what concerns an endpoint.
func (t *touched) name(e *endpoint) {
	if e == nil {
		return
	}
	t.tasks[e.task] = true
	for _, a := range valid(e.addrs) {
		t.addrs[a] = true
	}
}

func (o *Overlays) noteRepair(r *realm) {
	if len(r.changes) == 0 {
		return
	}
	o.repairs++
	o.log.Warn("network was changed by somebody and is restored", "network", r.id, "changes", r.changes)
}

// ensure puts the rules back.
func (r *realm) ensure(ctx context.Context) {
	if r.err != nil || r.table == nil || r.file == nil {
		return
	}
	r.changes = nil
	err := kernel.InNetns(r.file, func() error {
		repaired, err := r.table.Ensure()
		if repaired {
			r.changed("put the rules back")
		}
		return err
	})
	if err != nil && ctx.Err() == nil {
		r.shut(err)
		r.again(time.Now())
		r.o.unsaid = true
	}
	r.o.noteRepair(r)
}

func (o *Overlays) nextRetry(now time.Time) time.Duration {
	next := lookEvery
	for _, r := range o.realms {
		if !r.retryAt.IsZero() {
			next = min(next, max(0, r.retryAt.Sub(now)))
		}
	}
	return next
}
