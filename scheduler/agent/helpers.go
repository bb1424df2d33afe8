package agent

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"time"
	"unicode"

	"github.com/redoubt-cluster/redoubt/scheduler/rund/rundpb"
	"github.com/redoubt-cluster/redoubt/scheduler/schedulerpb"
	"github.com/redoubt-cluster/redoubt/scheduler/taskpb"
	"google.golang.org/protobuf/proto"
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
				req = &rundpb.ApplyRequest{Generation: a.gen.Next(), Tasks: a.machine.declaration(phases), Networks: ids, KeepNetworks: keep}
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
			a.Logger.Warn("rund could not make the namespaces of all networks, trying again", "errors", failed)
			unmade = time.Now().Add(maxHelperBackoff)
		}
		b.reset()
	}
}

// applyRund returns the networks that have no namespace, and why.
func (a *agent) applyRund(ctx context.Context, req *rundpb.ApplyRequest) (map[string]string, error) {
	ctx, cancel := context.WithTimeout(ctx, applyTimeout)
	defer cancel()
	resp, err := a.Executor.Apply(ctx, req)
	if err == nil && a.Overlay != nil {
		a.Overlay.SetNamespaces(req.Networks, resp.GetNetworkErrors())
	}
	return resp.GetNetworkErrors(), err
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

// probe looks at what the node can do: at start until both helpers answered,
// then now and again, and when asked.
func (a *agent) probe(ctx context.Context) error {
	b := backoff{base: helperBackoff, limit: maxHelperBackoff}
	refresh := a.Refresh
	var failing time.Time // since when; zero: it is not
	for {
		pause := probeInterval
		began := time.Now()
		if err := a.probeOnce(ctx); err != nil {
			if ctx.Err() != nil {
				return ctx.Err()
			}
			pause = b.pause()
			if failing.IsZero() {
				failing = began
			}
			if left := helperGrace - time.Since(failing); left > 0 {
				pause = min(pause, left)
			} else {
				a.setAway(err)
			}
			a.Logger.Warn("cannot see what this node can do, trying again", "error", err)
		} else {
			b.reset()
			failing = time.Time{}
			a.mu.Lock()
			if a.machine.refusal != "" {
				pause = refusalInterval
			}
			a.mu.Unlock()
		}
		t := time.NewTimer(pause)
		select {
		case <-t.C:
		case <-a.probeKick:
		case _, ok := <-refresh:
			if !ok {
				refresh = nil
			}
		case <-ctx.Done():
			t.Stop()
			return ctx.Err()
		}
		t.Stop()
	}
}

func (a *agent) probeOnce(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, probeTimeout)
	defer cancel()
	rund, err := a.Executor.Probe(ctx)
	if err != nil {
		return &awayError{"rund", err}
	}
	network, err := a.Network.Probe(ctx)
	if err != nil {
		return &awayError{"netd", err}
	}
	facts := nodeFacts{runtime: plain(rund.Runtime, maxName)}
	for _, f := range rund.Features {
		facts.features = append(facts.features, feature(f.Name, f.Detail, f.Present, f.Required))
	}
	facts.storage = rund.Storage
	if facts.images, err = boundImages(rund.LoadedImages); err != nil {
		a.Logger.Warn("not every imported image is made known", "error", err)
	}
	for _, f := range network {
		facts.features = append(facts.features, feature(f.Name, f.Detail, f.Present, f.Required))
	}
	a.mu.Lock()
	a.node, a.away = facts, nil
	a.mu.Unlock()
	a.helloKick.now()
	return a.input(func(m *machine, now time.Time) error {
		reason := missing(facts.features)
		if !m.probed || m.refusal != reason {
			m.setRefusal(now, reason)
		}
		return nil
	})
}

// awayError says which helper gave no answer.
type awayError struct {
	helper string
	err    error
}

func (e *awayError) Error() string { return e.helper + " does not answer: " + e.err.Error() }

// setAway makes known that a helper is missing: without it no task can run.
func (a *agent) setAway(err error) {
	name, why := "helpers", err
	var away *awayError
	if errors.As(err, &away) {
		name, why = away.helper, away.err
	}
	f := feature(name, "does not answer: "+why.Error(), false, true)
	a.mu.Lock()
	defer a.mu.Unlock()
	if !proto.Equal(a.away, f) {
		a.away = f
		a.helloKick.now()
	}
}

// feature is one as managers accept it: they refuse a description with texts
// that are too long or not plain, and a helper's errors quote what they like.
func feature(name, detail string, present, required bool) *taskpb.Feature {
	return &taskpb.Feature{Name: plain(name, maxName), Present: present, Required: required, Detail: plain(detail, maxDetail)}
}

// plain bounds a text and makes it one line.
func plain(s string, most int) string {
	s = strings.Map(func(r rune) rune {
		if unicode.IsControl(r) {
			return ' '
		}
		return r
	}, s)
	if len(s) > most {
		s = s[:most-3] + "..."
	}
	return strings.ToValidUTF8(s, "?")
}

// boundImages keeps what fits a description, by name, and says so when that is
// not all.
func boundImages(images map[string]string) (map[string]string, error) {
	size := 0
	out := make(map[string]string, len(images))
	for _, name := range slices.Sorted(maps.Keys(images)) {
		if size += len(name) + len(images[name]); size > maxImageBytes {
			return out, fmt.Errorf("%d of %d images fit the node's description: remove some", len(out), len(images))
		}
		out[name] = images[name]
	}
	return out, nil
}

// missing says which required features the node lacks, in one line.
func missing(features []*taskpb.Feature) string {
	var names []string
	for _, f := range features {
		if f.Required && !f.Present {
			name := f.Name
			if f.Detail != "" {
				name += " (" + f.Detail + ")"
			}
			names = append(names, name)
		}
	}
	if names == nil {
		return ""
	}
	return "the node lacks " + strings.Join(names, ", ")
}

// described passes on what the manager was told.
func (a *agent) described(d *schedulerpb.NodeDescription) {
	if a.Described != nil {
		a.Described(d)
	}
}

// describe is the node's own word plus what probing found.
func (a *agent) describe() *schedulerpb.NodeDescription {
	d := a.Describe()
	for i, f := range d.Features {
		d.Features[i] = feature(f.Name, f.Detail, f.Present, f.Required)
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.away != nil {
		d.Features = append(d.Features, a.away)
	}
	if !a.machine.probed {
		if a.away == nil {
			d.Features = append(d.Features, feature("helpers", "rund or netd has not answered yet", false, true))
		}
		return d
	}
	d.Runtime = a.node.runtime
	d.Features = append(d.Features, a.node.features...)
	d.LoadedImages = a.node.images
	d.Storage = a.node.storage
	return d
}
