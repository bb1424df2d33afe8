package rund

import (
	"context"
	"fmt"
	"time"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"

	"github.com/redoubt-cluster/redoubt/scheduler/rund/rundpb"
)

// stop brings a task to its end; d, when given, is what to report for a task
// that never ran.
func (w *worker) stop(ctx context.Context, d *rundpb.TaskDesired) error {
	switch w.phase() {
	case rundpb.Phase_PHASE_EXITED, rundpb.Phase_PHASE_FAILED:
		return nil
	case rundpb.Phase_PHASE_RUNNING, rundpb.Phase_PHASE_STARTING, rundpb.Phase_PHASE_STOPPING:
		return w.terminate(ctx)
	}
	if d == nil {
		return nil // wreck does the rest
	}
	if err := w.s.removeContainer(ctx, w.id, w.cid); err != nil {
		return err
	}
	w.forgetTask()
	w.report(rundpb.Phase_PHASE_EXITED, func(a *rundpb.TaskActual) {
		a.Error, a.ExitCode, a.ContainerId, a.Spec = "stopped before it was started", -1, "", d.GetSpec()
	})
	return nil
}

// terminate sends the stop signal, waits the grace period, then kills. What is
// desired may shorten the wait meanwhile.
func (w *worker) terminate(ctx context.Context) error {
	w.check.stop()
	w.check = nil
	if w.phase() != rundpb.Phase_PHASE_STOPPING {
		w.report(rundpb.Phase_PHASE_STOPPING, nil)
	}
	again := false // something else may be desired by now
	defer func() {
		if again {
			w.rouse()
		}
	}()
	begun := time.Now()
	for _, step := range []struct {
		signal unix.Signal
		until  func() time.Time
	}{
		{w.stopSignal(ctx), func() time.Time { return w.graceEnd(begun) }},
		{unix.SIGKILL, func() time.Time { return time.Now().Add(killWait) }},
	} {
		if err := w.kill(ctx, step.signal); err != nil {
			return err
		}
		for over := false; !over; {
			t := time.NewTimer(time.Until(step.until()))
			select {
			case st := <-w.exit:
				t.Stop()
				w.ended(st)
				return w.reloadIfStale(ctx)
			case <-ctx.Done():
				t.Stop()
				return ctx.Err()
			case <-w.wake:
				t.Stop()
				again = true
			case <-t.C:
				over = true
			}
		}
	}
	w.stale = true
	return fmt.Errorf("the container did not end within %s after SIGKILL", killWait)
}

// graceEnd is when a container that was asked to stop is killed.
func (w *worker) graceEnd(begun time.Time) time.Time {
	grace := time.Duration(w.made.GetSpec().GetContainer().GetStopGraceNs())
	if grace == 0 {
		grace = defaultGrace
	}
	end := begun.Add(grace)
	if d, _ := w.wanted(); d.GetKillAt() != 0 {
		if at := time.Unix(0, d.GetKillAt()); at.Before(end) {
			return at
		}
	}
	return end
}

func (w *worker) kill(ctx context.Context, sig unix.Signal) error {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	err := w.task.Kill(ctx, sig)
	if err == nil || errdefs.IsNotFound(err) { // ended already: exit will say so
		return nil
	}
	if transient(err) {
		w.stale = true
	}
	return fmt.Errorf("signal %s: %w", unix.SignalName(sig), err)
}

func (w *worker) stopSignal(ctx context.Context) unix.Signal {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	if cont, err := w.s.client.LoadContainer(ctx, w.cid); err == nil {
		if labels, err := cont.Labels(ctx); err == nil {
			if sig, err := parseSignal(labels[labelSignal]); err == nil && sig != 0 {
				return sig
			}
		}
	}
	return unix.SIGTERM
}
