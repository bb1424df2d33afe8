package overlay

import (
	"context"
	"errors"
	"net/netip"
	"time"

	"github.com/redoubt-cluster/redoubt/mesh/netd/internal/kernel"
)

// Run keeps the networks as they were declared until ctx ends: it puts back what
// is changed by hand, follows the node's end of the tunnels, and tries what failed
// again.
func (o *Overlays) Run(ctx context.Context) error {
	if err := o.adopt(); err != nil {
		o.log.Error("namespaces of networks that may be without rules are not closed; each is when its network is declared", "err", err)
	}
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
	o.findTunnel()
	now := time.Now()
	sweep := 1 + len(o.realms)*int(lookEvery)/int(sweepWithin)
	walks := 0
	retries, checks := map[string]*touched{}, map[string]*touched{}
	for id, r := range o.realms {
		due := !r.retryAt.IsZero() && !now.Before(r.retryAt)
		switch {
		case o.blocked == nil && r.err == nil && r.tunnel != o.tunnel:
			o.log.Info("network follows the mesh's interface", "network", id, "mtu", o.tunnel.mtu)
			retries[id] = &touched{whole: true}
		case o.blocked != nil && r.err == nil, due && r.err != nil:
			retries[id] = &touched{whole: true}
		case r.err != nil || now.Before(r.rest):
		case r.deaf.Load():
			checks[id] = &touched{whole: true}
		case r.news.Load()&(newsPaths|newsSettings) != 0:
			news := r.news.And(^uint32(newsPaths | newsSettings))
			checks[id] = &touched{paths: true, settings: news&newsSettings != 0}
		case sweep > 0 && now.Sub(r.swept) > sweepWithin:
			sweep--
			checks[id] = &touched{whole: true}
		case due:
			retries[id] = r.failing()
		case r.news.Load()&newsRules != 0:
			r.ensure()
		case walks < maxWalks && r.news.Load()&newsStale != 0 && !now.Before(r.walkAt):
			walks++
			r.forgetStale()
		}
		if t := checks[id]; t != nil && t.whole {
			r.news.Store(0)
		}
	}
	if len(retries) > 0 {
		o.apply(ctx, retries)
	}
	for id, t := range checks {
		r, began := o.realms[id], time.Now()
		o.apply(ctx, map[string]*touched{id: t})
		r.noteRepair(began)
	}
	if err := o.admit(ctx); err != nil {
		o.log.Error("who may send is not said; it is tried again", "err", err)
	}
	return o.nextLook()
}

// failing names the tasks that have no interface.
func (r *realm) failing() *touched {
	t := &touched{retry: true, tasks: map[string]bool{}, addrs: map[netip.Addr]bool{}}
	for task := range r.bad {
		if e := r.net.endpoints[task]; e != nil {
			t.tasks[task] = true
			for _, a := range valid(e.addrs) {
				t.addrs[a] = true
			}
		}
	}
	return t
}

// noteRepair counts what was found changed. Whoever changes it without pause,
// as somebody inside a sandbox may, gets a share of the time and no more.
func (r *realm) noteRepair(began time.Time) {
	if len(r.changes) == 0 {
		return
	}
	r.rest = time.Now().Add(restFactor * time.Since(began))
	r.o.repairs++
	r.o.log.Warn("network was changed by somebody and is restored", "network", r.id, "changes", r.changes)
}

// ensure puts the rules back.
func (r *realm) ensure() {
	r.news.And(^uint32(newsRules))
	if r.table == nil || r.file == nil {
		return
	}
	r.changes = nil
	began := time.Now()
	touched, err := r.table.Touched()
	if err == nil && touched {
		var repaired bool
		if repaired, err = r.table.Ensure(); repaired {
			r.rulesPutBack()
		}
	}
	if err != nil {
		r.shut(err)
		r.again(time.Now())
	}
	r.noteRepair(began)
}

// forgetStale ends connections. Should it fail, what may begin one is in force all
// the same, and it is tried again.
func (r *realm) forgetStale() {
	r.news.And(^uint32(newsStale))
	if r.table == nil {
		return // the next one looks for all
	}
	if err := r.table.Forget(); err != nil {
		r.o.log.Warn("connections that are to end go on; it is tried again", "network", r.id, "err", err)
		r.news.Or(newsStale)
		r.walkAt = time.Now().Add(retryMost)
	}
}

// nextLook is when something is to be tried again, or was put off.
func (o *Overlays) nextLook() time.Duration {
	next, now := lookEvery, time.Now()
	for _, r := range o.realms {
		if !r.retryAt.IsZero() {
			next = min(next, max(0, r.retryAt.Sub(now)))
		}
		switch news := r.news.Load(); {
		case news == 0 || r.err != nil:
		case news == newsStale:
			next = min(next, max(0, r.rest.Sub(now), r.walkAt.Sub(now)))
		default:
			next = min(next, max(0, r.rest.Sub(now)))
		}
	}
	return next
}
