package rund

import (
	"context"
	"encoding/json"
	"errors"
	"time"

	"github.com/containerd/containerd/v2/core/containers"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"google.golang.org/protobuf/proto"

	"github.com/redoubt-cluster/redoubt/scheduler/rund/health"
	"github.com/redoubt-cluster/redoubt/scheduler/rund/rundpb"
	"github.com/redoubt-cluster/redoubt/scheduler/taskpb"
)

// observe begins the healthchecks of a container that runs, if it has any. What
// earlier ones found stands in its labels. A check that cannot be read is no
// check passed: the container is ended.
func (w *worker) observe(ctx context.Context, info containers.Container) {
	w.check.stop()
	w.check = nil
	w.sick = info.Labels[labelUnhealthy]
	ext := info.Extensions[extensionHealth]
	if ext == nil || w.sick != "" {
		return
	}
	policy, process, err := checkOf(ext.GetValue(), info)
	if err != nil {
		w.sick = "its healthcheck cannot be read: " + err.Error()
		return
	}
	_, healthy := info.Labels[labelHealthy]
	w.state.Health = rundpb.Health_HEALTH_STARTING
	if healthy {
		w.state.Health = rundpb.Health_HEALTH_HEALTHY
	}
	w.check = w.s.probe(ctx, w.id, w.task, process, policy, time.Unix(0, nanos(info.Labels[labelStarted])), healthy, w.made.GetSpec().GetContainer().GetUlimits())
}

func checkOf(ext []byte, info containers.Container) (*health.Policy, *specs.Process, error) {
	var check taskpb.Healthcheck
	if err := proto.Unmarshal(ext, &check); err != nil {
		return nil, nil, err
	}
	policy, err := health.Effective(&check, nil)
	if err != nil {
		return nil, nil, err
	}
	var spec specs.Spec
	if err := json.Unmarshal(info.Spec.GetValue(), &spec); err != nil {
		return nil, nil, err
	}
	if policy == nil || spec.Process == nil {
		return nil, nil, errors.New("it is incomplete")
	}
	return policy, spec.Process, nil
}

// checked takes what the healthchecks found.
func (w *worker) checked(ctx context.Context, h healthState) {
	if w.phase() != rundpb.Phase_PHASE_RUNNING {
		return
	}
	switch h.status {
	case health.Starting:
		w.note(h.message)
		return
	case health.Healthy:
		// For the next rund. Without it, the container is asked once more.
		if err := w.label(ctx, labelHealthy, now()); err != nil {
			w.log.Warn("cannot note that it is healthy", "err", err)
		}
		w.state.Health = rundpb.Health_HEALTH_HEALTHY
	case health.Unhealthy:
		w.state.Health, w.sick, w.since = rundpb.Health_HEALTH_UNHEALTHY, h.message, time.Now()
	}
	w.state.Message = h.message
	w.s.hub.set(w.state)
	w.log.Info("task", "health", w.state.GetHealth().String(), "message", h.message)
}

// leaving reports whether an unhealthy container still goes on, so that whoever
// was led to it by name, virtual address or published port is answered.
func (w *worker) leaving() bool {
	spec := w.made.GetSpec()
	return (len(spec.GetNetworks()) > 0 || reached(spec)) && w.phase() == rundpb.Phase_PHASE_RUNNING && time.Since(w.since) < withdrawTime
}

// leave comes when that is over; nil, on which nothing ever comes, where it does
// not apply.
func (w *worker) leave() <-chan time.Time {
	if w.sick == "" || !w.leaving() {
		return nil
	}
	return time.After(withdrawTime - time.Since(w.since))
}

// endSick ends a container that is unhealthy; its error says why.
func (w *worker) endSick(ctx context.Context) error {
	if w.phase() != rundpb.Phase_PHASE_STOPPING {
		if err := w.label(ctx, labelUnhealthy, w.sick); err != nil {
			return err
		}
	}
	return w.terminate(ctx)
}

func (w *worker) label(ctx context.Context, name, value string) error {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	_, err := w.s.client.ContainerService().Update(ctx, containers.Container{ID: w.cid, Labels: map[string]string{name: value}}, "labels."+name)
	return err
}
