package agent

import (
	"context"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"time"

	"github.com/redoubt-cluster/redoubt/scheduler/rund/rundpb"
)

// backoff gives growing, jittered pauses.
type backoff struct{ base, limit, next time.Duration }

func (b *backoff) reset() { b.next = 0 }

func (b *backoff) pause() time.Duration {
	b.next = min(max(b.next*2, b.base), b.limit)
	return b.next/2 + rand.N(b.next/2+1)
}

// sleep waits for d unless ctx ends first.
func sleep(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// watchRund hears rund out for as long as the agent lives.
func (a *agent) watchRund(ctx context.Context) error {
	b := backoff{base: helperBackoff, limit: maxHelperBackoff}
	for {
		err := a.Executor.Watch(ctx, func(r *rundpb.WatchResponse) error {
			return a.input(func(m *machine, now time.Time) error {
				if !r.Complete && !a.rundUp {
					return fmt.Errorf("rund began with a change instead of all its tasks")
				}
				m.observe(now, r)
				if mayHaveVolumes(r) {
					a.probeKick.now()
				}
				if r.Complete {
					a.rundUp, a.redeclare = true, true
					b.reset()
					a.probeKick.now()
				}
				return nil
			})
		})
		a.mu.Lock()
		a.rundUp = false
		a.mu.Unlock()
		a.probeKick.now() // is it gone?
		if ctx.Err() != nil {
			return ctx.Err()
		}
		a.Logger.Warn("rund's reports ended, asking again", "error", err)
		if err := sleep(ctx, b.pause()); err != nil {
			return err
		}
	}
}

// declareRund tells rund the whole desired state whenever it changed.
func (a *agent) declareRund(ctx context.Context) error {
	var told map[string]rundpb.Phase
	var networks []string
	kept := true
	var unmade time.Time // when to ask again for namespaces that were not made; zero: all were
	b := backoff{base: helperBackoff, limit: maxHelperBackoff}
	for {
		a.mu.Lock()
		now := time.Now()
		var req *rundpb.ApplyRequest
		var phases map[string]rundpb.Phase
		wake := a.machine.wake(now)
		if a.rundUp && a.machine.ready() {
			phases = a.machine.phases(now)
			ids, keep := a.namespaces()
			if a.redeclare || a.machine.again || told == nil || !maps.Equal(phases, told) || keep != kept || !slices.Equal(ids, networks) || !unmade.IsZero() && !now.Before(unmade) {
				a.redeclare, a.machine.again = false, false
				req = &rundpb.ApplyRequest{Generation: a.gen.Next(), Tasks: a.machine.declaration(phases), Networks: ids, KeepNetworks: keep, ImagePolicy: a.machine.policy, RemoveVolumes: a.machine.noVolumes}
			}
		}
		a.mu.Unlock()

		if req == nil {
			if wake.IsZero() || !unmade.IsZero() && unmade.Before(wake) {
				wake = unmade
			}
			if err := a.rundKick.wait(ctx, until(now, wake)); err != nil {
				return err
			}
			continue
		}
		failed, err := a.applyRund(ctx, req)
		if err != nil {
			if ctx.Err() != nil {
				return ctx.Err()
			}
			told = nil
			a.Logger.Warn("rund did not take the desired state, trying again", "error", err)
			if err := sleep(ctx, b.pause()); err != nil {
				return err
			}
			continue
		}
		told, networks, kept, unmade = phases, req.Networks, req.KeepNetworks, time.Time{}
		if len(failed) > 0 {
			a.Logger.Warn("rund could not make the namespaces of all networks, or delete all volumes that it should, trying again", "errors", failed)
			unmade = time.Now().Add(maxHelperBackoff)
		}
		b.reset()
	}
}

// applyRund returns the networks that have no namespace, and the volumes that are not deleted, and why.
func (a *agent) applyRund(ctx context.Context, req *rundpb.ApplyRequest) (map[string]string, error) {
	ctx, cancel := context.WithTimeout(ctx, applyTimeout)
	defer cancel()
	resp, err := a.Executor.Apply(ctx, req)
	if err == nil && a.Overlay != nil {
		a.Overlay.SetNamespaces(req.Networks, resp.GetNetworkErrors())
	}
	failed := maps.Clone(resp.GetNetworkErrors())
	for id, why := range resp.GetVolumeErrors() {
		if failed == nil {
			failed = map[string]string{}
		}
		failed["volume "+id] = why
	}
	if len(req.GetRemoveVolumes()) > 0 {
		a.probeKick.now() // what is gone?
	}
	return failed, err
}

// syncNetwork tells netd the whole desired state whenever it changed, or netd
// was seen to have lost it.
func (a *agent) syncNetwork(ctx context.Context) error {
	var told map[string]bool
	b := backoff{base: helperBackoff, limit: maxHelperBackoff}
	for {
		a.mu.Lock()
		now := time.Now()
		ready := a.machine.ready() && a.machine.described()
		want := a.machine.attachments(now)
		ids := make(map[string]bool, len(want))
		for _, w := range want {
			ids[w.TaskID] = true
		}
		wake := a.machine.wake(now)
		again := a.resync || told == nil || !maps.Equal(ids, told) || a.machine.retryDue(now)
		if ready && again {
			a.resync = false
			a.machine.syncing(want)
		}
		a.mu.Unlock()

		if !ready || !again {
			if err := a.netKick.wait(ctx, until(now, wake)); err != nil {
				return err
			}
			continue
		}
		failed, err := a.Network.Sync(ctx, want)
		if err != nil {
			if ctx.Err() != nil {
				return ctx.Err()
			}
			told = nil
			a.Logger.Warn("netd did not take the desired state, trying again", "error", err)
			if err := sleep(ctx, b.pause()); err != nil {
				return err
			}
			continue
		}
		told = ids
		b.reset()
		for id, err := range failed {
			a.Logger.Warn("a task could not be attached", "task", id, "error", err)
		}
		a.input(func(m *machine, now time.Time) error {
			m.synced(now, want, failed)
			return nil
		})
	}
}

// checkNetwork notices that netd was restarted.
func (a *agent) checkNetwork(ctx context.Context) error {
	for {
		if err := sleep(ctx, checkInterval); err != nil {
			return err
		}
		check, cancel := context.WithTimeout(ctx, checkTimeout)
		ok, err := a.Network.Check(check)
		cancel()
		if err == nil && ok {
			continue
		}
		// Also when netd does not answer: the next declaration then waits for
		// it with growing pauses.
		a.mu.Lock()
		a.resync = true
		a.mu.Unlock()
		a.netKick.now()
		a.probeKick.now()
	}
}

func until(now, wake time.Time) time.Duration {
	if wake.IsZero() {
		return 0
	}
	return max(wake.Sub(now), time.Millisecond)
}
