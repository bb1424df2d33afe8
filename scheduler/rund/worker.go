package rund

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"sync"
	"time"

	containerd "github.com/containerd/containerd/v2/client"
	"github.com/containerd/containerd/v2/core/containers"
	"golang.org/x/sync/errgroup"

	"github.com/redoubt-cluster/redoubt/scheduler/rund/image"
	"github.com/redoubt-cluster/redoubt/scheduler/rund/rundpb"
)

// worker brings one task to its desired state. All its actions happen in its
// own goroutine, run; others only tell it what is desired.
type worker struct {
	s   *Server
	id  string // the task's
	log *slog.Logger

	mu       sync.Mutex
	desired  *rundpb.TaskDesired // nil: absent. Guarded by mu
	governed bool                // an Apply has spoken since start. Guarded by mu
	abort    context.CancelFunc  // ends a preparation that is under way. Guarded by mu
	answers  bool                // containerd does, again. Guarded by mu
	first    *rundpb.TaskDesired // what the task is, see fix; nil: nobody said. Guarded by mu

	wake chan struct{} // buffered 1; desired changed

	// Owned by run.
	cid   string              // the container's id, see attempt
	tried bool                // to create it
	mess  int                 // how often leftovers could not be removed
	made  *rundpb.TaskDesired // what the container was made from
	// admitted names the image policies that were in force when it was made; empty:
	// an earlier rund made it.
	admitted string
	state    *rundpb.TaskActual
	task     containerd.Task
	exit     <-chan containerd.ExitStatus // nil: nobody waits
	stale    bool                         // state must be read from containerd first
	check    *prober                      // nil: there is no healthcheck, or nothing runs
	sick     string                       // unhealthy, and why: to be ended
	since    time.Time                    // unhealthy by a check of this process
	delay    time.Duration                // before the next attempt
	relays   relays

	has delivered
}

// want tells the worker what is desired; nil means absent.
func (w *worker) want(d *rundpb.TaskDesired) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.desired, w.governed = d, true
	if p := d.GetPhase(); w.abort != nil && p != rundpb.Phase_PHASE_CREATED && p != rundpb.Phase_PHASE_RUNNING {
		w.abort()
	}
	w.rouse()
}

// rouse makes run look again.
func (w *worker) rouse() {
	select {
	case w.wake <- struct{}{}:
	default:
	}
}

// back tells the worker that containerd answers again.
func (w *worker) back() {
	w.mu.Lock()
	w.answers = true
	w.mu.Unlock()
	w.rouse()
}

// pause is how long to wait before the next attempt: longer each time, until
// containerd comes back.
func (w *worker) pause() time.Duration {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.answers {
		w.answers, w.delay = false, 0
	}
	w.delay = min(max(2*w.delay, retryMin), retryMax)
	return w.delay
}

func (w *worker) wanted() (*rundpb.TaskDesired, bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.desired, w.governed
}

// run ends when the task is forgotten or ctx ends; the latter leaves the
// container as it is.
func (w *worker) run(ctx context.Context) {
	defer func() { w.check.stop(); w.relays.forget() }()
	for ctx.Err() == nil {
		gone, err := w.converge(ctx)
		if gone && w.s.retire(w) {
			return
		}
		var retry <-chan time.Time
		due := w.due()
		if err != nil && ctx.Err() == nil {
			pause := w.pause()
			w.log.Warn("will try again", "err", err, "in", pause.String())
			w.note("trying again: " + plainRuntimeError(err))
			retry, due = time.After(pause), nil
		} else {
			w.delay = 0
		}
		if gone {
			continue // wanted again meanwhile
		}
		select {
		case <-ctx.Done():
		case <-w.wake:
		case <-retry:
		case <-w.leave():
		case st := <-w.exit:
			w.ended(st)
		case <-due:
		case h := <-w.check.updates():
			w.checked(ctx, h)
		}
	}
}

// converge takes all steps that are possible now. An error means: try again.
func (w *worker) converge(ctx context.Context) (gone bool, err error) {
	if w.stale {
		if err := w.reload(ctx); err != nil {
			return false, err
		}
	}
	d, governed := w.wanted()
	if !governed {
		return false, nil
	}
	if err := w.tendFiles(ctx); err != nil {
		return false, err
	}
	switch d.GetPhase() {
	case rundpb.Phase_PHASE_CREATED, rundpb.Phase_PHASE_RUNNING:
		if err := w.fix(d); err != nil {
			if w.alive() || w.phase() >= rundpb.Phase_PHASE_EXITED {
				w.note(err.Error()) // what runs is what it was
				return false, nil
			}
			return false, w.fail(ctx, rejected(err))
		}
		if w.phase() == rundpb.Phase_PHASE_UNSPECIFIED || w.phase() == rundpb.Phase_PHASE_PREPARING {
			if err := w.admitLock(d, d.GetSigned()); err != nil {
				return false, w.fail(ctx, err)
			}
			if ready, err := w.awaitFiles(d); !ready {
				return false, err
			}
			if ready, err := w.awaitIdentity(d); !ready {
				return false, err
			}
			if err := w.create(ctx, d); err != nil {
				return false, err
			}
		}
		if w.phase() == rundpb.Phase_PHASE_CREATED && d.GetPhase() == rundpb.Phase_PHASE_RUNNING {
			if err := cmp.Or(w.admitLock(w.made, d.GetSigned()), w.admitDelivered(d)); err != nil { // it may be off no longer, or another
				return false, w.fail(ctx, err)
			}
			if err := w.start(ctx); err != nil {
				return false, err
			}
		}
		if w.sick != "" && w.alive() && !w.leaving() {
			return false, w.endSick(ctx)
		}
		return false, w.tendRelays(ctx, d)
	case rundpb.Phase_PHASE_STOPPING:
		return false, w.stop(ctx, d)
	}
	if err := w.stop(ctx, nil); err != nil {
		return false, err
	}
	if err := w.s.wreck(ctx, w.id, w.cid); err != nil {
		return false, err
	}
	w.dropFiles()
	w.s.volumes.Release(w.id)
	w.forgetFixed()
	w.state, w.made, w.task, w.exit, w.sick = nil, nil, nil, nil, ""
	w.s.hub.remove(w.id)
	return true, nil
}

func (w *worker) phase() rundpb.Phase { return w.state.GetPhase() }

// alive reports whether there is a process to end.
func (w *worker) alive() bool {
	switch w.phase() {
	case rundpb.Phase_PHASE_RUNNING, rundpb.Phase_PHASE_STARTING, rundpb.Phase_PHASE_STOPPING:
		return true
	}
	return false
}

// note publishes what the task waits for, until its next phase.
func (w *worker) note(message string) {
	if w.state != nil && w.state.GetMessage() != message {
		w.state.Message = message
		w.s.hub.set(w.state)
	}
}

// report publishes a new phase.
func (w *worker) report(p rundpb.Phase, change func(*rundpb.TaskActual)) {
	if w.state == nil {
		w.state = &rundpb.TaskActual{TaskId: w.id}
	}
	w.state.Phase, w.state.At, w.state.Message = p, time.Now().UnixNano(), ""
	if change != nil {
		change(w.state)
	}
	switch p {
	case rundpb.Phase_PHASE_CREATED:
		w.state.LocalAttachments = w.s.locals.of(w.id)
	case rundpb.Phase_PHASE_EXITED, rundpb.Phase_PHASE_FAILED:
		w.state.LocalAttachments, w.state.Relays = nil, nil
		w.state.Files, w.state.WantsFiles = nil, false
		w.dropFiles()
		w.s.volumes.Release(w.id)
		w.s.locals.release(w.id)
		w.s.callers.close(w.id)
	}
	w.s.hub.set(w.state)
	w.log.Info("task", "phase", p.String(), "error", w.state.GetError())
}

func (w *worker) create(ctx context.Context, d *rundpb.TaskDesired) error {
	if w.phase() != rundpb.Phase_PHASE_PREPARING {
		// Early, so that who follows the log may do so from now on.
		if err := os.MkdirAll(w.s.taskDir(w.id).log(), 0o700); err != nil {
			return err
		}
		w.report(rundpb.Phase_PHASE_PREPARING, func(a *rundpb.TaskActual) { a.Spec, a.Endpoint = d.GetSpec(), d.GetEndpoint() })
	}
	pctx, cancel := context.WithCancel(ctx)
	defer cancel()
	w.mu.Lock()
	w.abort = cancel
	changed := w.desired != d
	w.mu.Unlock()
	defer func() { w.mu.Lock(); w.abort = nil; w.mu.Unlock() }()
	if changed {
		return nil // wake is pending
	}
	var task containerd.Task
	var under *admitted
	var err error
	if w.tried {
		err = w.again(pctx) // the attempt was interrupted
	}
	w.tried = true
	if err == nil {
		task, under, err = w.s.prepare(pctx, d, w.cid, w.shows(), w.note)
	}
	if occupied(err) { // something was there that nobody knew of
		if err = w.again(pctx); err == nil {
			task, under, err = w.s.prepare(pctx, d, w.cid, w.shows(), w.note)
		}
	}
	if err == nil {
		w.made, w.task, w.mess, w.admitted = d, task, 0, under.under
		w.has.mu.Lock()
		w.has.credential.Wipe()
		w.has.credential = nil
		w.has.mu.Unlock()
		w.report(rundpb.Phase_PHASE_CREATED, func(a *rundpb.TaskActual) {
			a.Spec, a.Endpoint, a.ContainerId, a.Netns, a.Hostname = d.GetSpec(), d.GetEndpoint(), w.cid, w.id, hostnameWritten(d)
		})
		return nil
	}
	switch {
	case ctx.Err() != nil:
		return ctx.Err()
	case pctx.Err() != nil: // no longer wanted
		w.state.Phase = rundpb.Phase_PHASE_UNSPECIFIED
		return nil
	case transient(err):
		return err
	}
	var mess *messError
	if errors.As(err, &mess) {
		if w.mess++; w.mess < maxMess {
			return err
		}
	}
	return w.fail(ctx, err)
}

// messError says what of an interrupted attempt cannot be removed.
type messError struct{ err error }

func (e *messError) Error() string { return "an interrupted start left something: " + e.err.Error() }
func (e *messError) Unwrap() error { return e.err }

// again clears away what an attempt left and makes the next one a container
// with an id of its own.
func (w *worker) again(ctx context.Context) error {
	if err := w.s.removeContainer(ctx, w.id, w.cid); transient(err) {
		return err
	} else if err != nil {
		return &messError{err}
	}
	w.cid = attempt(w.id)
	return nil
}

// fail gives up on a task that has not run.
func (w *worker) fail(ctx context.Context, err error) error {
	if werr := w.s.removeContainer(ctx, w.id, w.cid); werr != nil {
		w.log.Warn("cannot clean up", "err", werr)
	}
	w.forgetTask()
	w.report(rundpb.Phase_PHASE_FAILED, func(a *rundpb.TaskActual) {
		a.Error, a.Rejected, a.ContainerId = plainRuntimeError(err), image.IsRejected(err), ""
	})
	return nil
}

func (w *worker) start(ctx context.Context) error {
	cctx, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	if err := w.still(cctx); image.IsRejected(err) {
		return w.fail(ctx, err)
	} else if err != nil {
		return err
	}
	w.report(rundpb.Phase_PHASE_STARTING, nil)
	var before errgroup.Group
	var info containers.Container
	before.Go(func() (err error) {
		// First, so that a container without a task is known to have run.
		info, err = w.s.client.ContainerService().Update(cctx, containers.Container{ID: w.cid, Labels: map[string]string{labelStarted: now()}},
			"labels."+labelStarted)
		return err
	})
	// Here, so that it also holds for a container that was adopted.
	err := boundShim(int(w.task.Pid()))
	if err == nil {
		err = w.s.bound(w.id, int(w.task.Pid()), w.made.GetSpec().GetContainer().GetUlimits())
	}
	if err == nil {
		w.exit, err = w.task.Wait(ctx)
	}
	if err = errors.Join(err, before.Wait()); err == nil {
		err = w.task.Start(cctx)
	}
	switch {
	case err == nil:
		w.observe(ctx, info)
		w.report(rundpb.Phase_PHASE_RUNNING, nil)
		return nil
	case ctx.Err() != nil || transient(err) || cctx.Err() != nil || w.executed(): // an earlier order may have come late
		w.stale = true
		return fmt.Errorf("start: %w", err)
	}
	return w.fail(ctx, fmt.Errorf("start: %w", err))
}
