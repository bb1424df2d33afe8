package agent

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/redoubt-cluster/redoubt/internal/oneline"
	"github.com/redoubt-cluster/redoubt/scheduler/schedulerpb"
	"github.com/redoubt-cluster/redoubt/scheduler/taskpb"
	"google.golang.org/protobuf/proto"
)

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
	facts := nodeFacts{runtime: oneline.Text(rund.Runtime, maxName)}
	for _, f := range rund.Features {
		facts.features = append(facts.features, feature(f.Name, f.Detail, f.Present, f.Required))
	}
	facts.storage, facts.volumes = rund.Storage, rund.Volumes
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
	return &taskpb.Feature{Name: oneline.Text(name, maxName), Present: present, Required: required, Detail: oneline.Text(detail, maxDetail)}
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
	if len(a.ports) > 0 {
		d.Features = append(d.Features, feature("published ports", strings.Join(a.ports, "; "), false, false))
	}
	d.LoadedImages = a.node.images
	d.Storage, d.Volumes = a.node.storage, &schedulerpb.NodeVolumes{Instances: a.node.volumes}
	return d
}
