package rund

import (
	"cmp"
	"context"
	"fmt"
	"os"
	"path"
	"path/filepath"
	"strconv"

	containerd "github.com/containerd/containerd/v2/client"
	"github.com/containerd/errdefs"

	"github.com/redoubt-cluster/redoubt/scheduler/rund/rundpb"
)

// ended takes what a wait returned. What happened is then read from containerd,
// which also covers a wait that broke because containerd went away.
func (w *worker) ended(containerd.ExitStatus) {
	w.exit, w.stale = nil, true
	w.check.stop()
	w.check = nil
}

// forgetTask is for a container that is no more.
func (w *worker) forgetTask() {
	w.check.stop()
	w.relays.forget()
	w.task, w.exit, w.check = nil, nil, nil
}

func (w *worker) reloadIfStale(ctx context.Context) error {
	if !w.stale {
		return nil
	}
	return w.reload(ctx)
}

// reload sets the worker's state from what containerd knows, and records the
// exit of a container that ended. It changes nothing that runs.
func (w *worker) reload(ctx context.Context) error {
	cctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	cont, err := w.s.client.LoadContainer(cctx, w.cid)
	if errdefs.IsNotFound(err) {
		w.stale = false
		w.forgetTask()
		if w.state != nil && w.phase() != rundpb.Phase_PHASE_PREPARING {
			w.report(rundpb.Phase_PHASE_FAILED, func(a *rundpb.TaskActual) { a.Error = "the container was removed by somebody else" })
		}
		return nil
	}
	if err != nil {
		return err
	}
	info, err := cont.Info(cctx, containerd.WithoutRefreshedMetadata)
	if err != nil {
		return err
	}
	if w.made, err = recorded(info); err != nil {
		return err
	}
	if alone(w.made.GetSpec()) {
		if err := w.s.ranges.recall(w.id, info.Labels[labelIDs]); err != nil {
			return err
		}
	}
	if err := w.fix(w.made); err != nil {
		return err
	}
	if w.state == nil {
		w.state = &rundpb.TaskActual{TaskId: w.id}
	}
	w.state.Spec, w.state.Endpoint, w.state.ContainerId, w.state.Netns, w.state.Hostname = w.made.GetSpec(), w.made.GetEndpoint(), w.cid, w.id, hostnameWritten(w.made)

	if _, over := info.Labels[labelExit]; over {
		w.reportExit(info.Labels)
		w.stale = false
		return nil
	}
	task, err := cont.Task(cctx, nil)
	if errdefs.IsNotFound(err) {
		return w.reloadWithoutTask(cctx, cont, info.Labels)
	}
	if err != nil {
		return err
	}
	st, err := task.Status(cctx)
	if err != nil {
		return err
	}
	w.task = task
	switch st.Status {
	case containerd.Stopped:
		return w.recordExit(cctx, cont, task, st)
	case containerd.Created:
		if info.Labels[labelStarted] == "" || !w.executed() {
			w.resume(rundpb.Phase_PHASE_CREATED)
			break
		}
		fallthrough
	default:
		if w.exit, err = task.Wait(ctx); err != nil { // outlives this call
			return err
		}
		w.observe(ctx, info)
		if err := w.endExecs(cctx); err != nil {
			return err
		}
		w.relays.forget() // this is another task to containerd's client
		w.relays.recall(info.Labels)
		if w.phase() != rundpb.Phase_PHASE_STOPPING {
			w.resume(rundpb.Phase_PHASE_RUNNING)
		}
	}
	w.stale = false
	return nil
}

// resume reports a phase unless it is what was reported last.
func (w *worker) resume(p rundpb.Phase) {
	if w.phase() != p {
		w.report(p, nil)
	}
}

// reloadWithoutTask: either creation was interrupted, then another attempt may
// start over, or a container that ran was lost with the machine or its shim.
func (w *worker) reloadWithoutTask(ctx context.Context, cont containerd.Container, labels map[string]string) error {
	w.forgetTask()
	if labels[labelStarted] == "" {
		w.stale, w.tried = false, true
		w.state = nil
		return nil
	}
	return w.storeExit(ctx, cont, map[string]string{
		labelExit: "-1", labelExited: now(),
		labelFailure: "the container was lost: the machine restarted, or its shim was killed",
	})
}

// executed reports whether the container's own program runs, which containerd
// does not always know: a runtime that dies with containerd in the middle of a
// start may have let the process go already. Another start would then wait for
// ever.
func (w *worker) executed() bool {
	runtime := cmp.Or(w.s.config.Containerd.Runtime, "runc")
	if filepath.Base(runtime) != "runc" {
		return false // how its waiting process looks is not known
	}
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", w.task.Pid()))
	return err == nil && len(b) > 0 && string(b) != runtime+"\x00init\x00"
}

// recordExit notes how a container ended, then lets its runtime state go. The
// order makes an interruption harmless: the exit is read again.
func (w *worker) recordExit(ctx context.Context, cont containerd.Container, task containerd.Task, st containerd.Status) error {
	labels := map[string]string{
		labelExit:   strconv.FormatInt(int64(st.ExitStatus), 10),
		labelExited: strconv.FormatInt(st.ExitTime.UnixNano(), 10),
	}
	kills, err := oomKills(path.Join(w.s.config.CgroupParent, w.cid))
	if err != nil {
		w.log.Warn("cannot tell whether memory ran out", "err", err)
	}
	if w.phase() == rundpb.Phase_PHASE_STARTING && st.ExitStatus != 0 {
		labels[labelFailure] = "it ended when containerd was interrupted starting it"
	}
	if kills > 0 && st.ExitStatus != 0 {
		labels[labelOOM] = "true"
	}
	if _, err := cont.SetLabels(ctx, labels); err != nil {
		return err
	}
	// Also waits for the logger, so that the log is complete before the exit
	// is known.
	if _, err := task.Delete(ctx); err != nil && !errdefs.IsNotFound(err) {
		return err
	}
	return w.storeExit(ctx, cont, nil)
}

func (w *worker) storeExit(ctx context.Context, cont containerd.Container, labels map[string]string) error {
	all, err := cont.Labels(ctx)
	if len(labels) > 0 {
		all, err = cont.SetLabels(ctx, labels)
	}
	if err != nil {
		return err
	}
	w.forgetTask()
	w.stale = false
	w.reportExit(all)
	return nil
}

func (w *worker) reportExit(labels map[string]string) {
	code, err := strconv.ParseInt(labels[labelExit], 10, 32)
	if err != nil {
		code = -1
	}
	phase := rundpb.Phase_PHASE_EXITED
	if labels[labelFailure] != "" {
		phase = rundpb.Phase_PHASE_FAILED
	}
	if w.phase() == phase {
		return
	}
	w.report(phase, func(a *rundpb.TaskActual) {
		a.ExitCode, a.OomKilled, a.At = int32(code), labels[labelOOM] != "", nanos(labels[labelExited])
		a.Error = cmp.Or(labels[labelFailure], labels[labelUnhealthy])
	})
}
