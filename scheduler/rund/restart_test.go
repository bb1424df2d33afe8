package rund

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/redoubt-cluster/redoubt/scheduler/rund/rundpb"
)

// TestRestartKeepsContainers: rund goes away and comes back; the container, its
// log and its exit status do not care.
func TestRestartKeepsContainers(t *testing.T) {
	n := newNode(t)
	keep, over, created := n.desired(), n.desired("exit", "3"), n.desired()
	created.Phase = rundpb.Phase_PHASE_CREATED
	n.apply(keep, over, created)
	n.awaitPhase(keep.GetTaskId(), rundpb.Phase_PHASE_RUNNING)
	n.awaitLog(keep.GetTaskId(), "ready")
	n.awaitPhase(over.GetTaskId(), rundpb.Phase_PHASE_EXITED)
	n.awaitPhase(created.GetTaskId(), rundpb.Phase_PHASE_CREATED)
	pid := n.pid(keep.GetTaskId())

	n.restart()
	// Nothing was applied yet: everything is as it was, and known.
	a := n.awaitPhase(keep.GetTaskId(), rundpb.Phase_PHASE_RUNNING)
	if n.pid(keep.GetTaskId()) != pid {
		t.Error("the container was replaced")
	}
	if a.GetEndpoint().GetAddress() != "10.9.8.7/24" || a.GetSpec().GetContainer().GetDigest() != n.digest {
		t.Errorf("endpoint or specification forgotten: %v", a)
	}
	if a := n.awaitPhase(over.GetTaskId(), rundpb.Phase_PHASE_EXITED); a.GetExitCode() != 3 {
		t.Errorf("exit status forgotten: %v", a)
	}
	n.awaitPhase(created.GetTaskId(), rundpb.Phase_PHASE_CREATED)

	keep.Phase, created.Phase = rundpb.Phase_PHASE_STOPPING, rundpb.Phase_PHASE_RUNNING
	n.apply(keep, created)
	n.awaitPhase(keep.GetTaskId(), rundpb.Phase_PHASE_EXITED)
	if log := n.logText(keep.GetTaskId()); log != "ready\ngot terminated\n" {
		t.Errorf("log across the restart: %q", log)
	}
	n.awaitPhase(created.GetTaskId(), rundpb.Phase_PHASE_RUNNING)
}

// TestExitWhileAway: a container ends while rund is down.
func TestExitWhileAway(t *testing.T) {
	n := newNode(t)
	d := n.desired()
	n.apply(d)
	n.awaitPhase(d.GetTaskId(), rundpb.Phase_PHASE_RUNNING)
	n.awaitLog(d.GetTaskId(), "ready")
	pid := n.pid(d.GetTaskId())
	n.stop()
	signalPID(t, pid, 15)
	n.start()
	a := n.awaitPhase(d.GetTaskId(), rundpb.Phase_PHASE_EXITED)
	if a.GetExitCode() != 0 || !strings.Contains(n.logText(d.GetTaskId()), "got terminated") {
		t.Errorf("got %v", a)
	}
}

// TestContainerdRestarts: containers go on, exits are still seen.
func TestContainerdRestarts(t *testing.T) {
	n := newNode(t)
	a, b := n.desired(), n.desired()
	n.apply(a, b)
	for _, d := range []*rundpb.TaskDesired{a, b} {
		n.awaitPhase(d.GetTaskId(), rundpb.Phase_PHASE_RUNNING)
		n.awaitLog(d.GetTaskId(), "ready")
	}
	pidA, pidB := n.pid(a.GetTaskId()), n.pid(b.GetTaskId())
	if err := ctrd.Kill(); err != nil {
		t.Fatal(err)
	}
	// While containerd is away: one container ends, one goes on, a new task
	// waits, and Probe says what is wrong.
	signalPID(t, pidA, 15)
	c := n.desired("exit", "0")
	n.apply(a, b, c)
	probe, err := n.client.Probe(n.ctx(), &rundpb.ProbeRequest{})
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range probe.GetFeatures() {
		if f.GetName() == "containerd" && (f.GetPresent() || !f.GetRequired()) {
			t.Errorf("Probe does not miss containerd: %v", f)
		}
	}
	if err := ctrd.Restart(n.ctx()); err != nil {
		t.Fatal(err)
	}
	n.awaitPhase(a.GetTaskId(), rundpb.Phase_PHASE_EXITED)
	n.awaitPhase(c.GetTaskId(), rundpb.Phase_PHASE_EXITED)
	if n.pid(b.GetTaskId()) != pidB {
		t.Error("a container was replaced")
	}
	signalPID(t, pidB, 15)
	n.awaitPhase(b.GetTaskId(), rundpb.Phase_PHASE_EXITED)
}

// TestShimKilled: a container whose shim dies is reported as lost, not as
// running, and can be removed.
func TestShimKilled(t *testing.T) {
	n := newNode(t)
	d := n.desired()
	n.apply(d)
	n.awaitPhase(d.GetTaskId(), rundpb.Phase_PHASE_RUNNING)
	n.awaitLog(d.GetTaskId(), "ready")
	st := procStatus(t, n.pid(d.GetTaskId()))
	signalPID(t, st["PPid"], 9)
	a := n.await(d.GetTaskId(), "the end", func(a *rundpb.TaskActual) bool {
		return a.GetPhase() == rundpb.Phase_PHASE_EXITED || a.GetPhase() == rundpb.Phase_PHASE_FAILED
	})
	if a.GetExitCode() == 0 {
		t.Errorf("a lost container looks as if it had succeeded: %v", a)
	}
}

// TestBeforeFirstApply: what is not mentioned goes only once somebody spoke.
func TestBeforeFirstApply(t *testing.T) {
	n := newNode(t)
	d := n.desired()
	n.apply(d)
	n.awaitPhase(d.GetTaskId(), rundpb.Phase_PHASE_RUNNING)
	n.restart()
	n.awaitPhase(d.GetTaskId(), rundpb.Phase_PHASE_RUNNING)
	n.apply()
	n.awaitEmpty()
	if _, err := os.Stat(filepath.Join(n.runDir, "rund", d.GetTaskId())); !os.IsNotExist(err) {
		t.Errorf("directory left: %v", err)
	}
}

func TestGenerations(t *testing.T) {
	n := newNode(t)
	d := n.desired()
	n.apply(d)
	_, err := n.client.Apply(n.ctx(), &rundpb.ApplyRequest{Generation: n.gen - 1})
	if status.Code(err) != codes.FailedPrecondition || !strings.Contains(err.Error(), "older") {
		t.Errorf("an older generation: %v", err)
	}
	n.awaitPhase(d.GetTaskId(), rundpb.Phase_PHASE_RUNNING)
	for name, req := range map[string]*rundpb.ApplyRequest{
		"path":  {Generation: 99, Tasks: []*rundpb.TaskDesired{{TaskId: "../../etc", Phase: rundpb.Phase_PHASE_RUNNING}}},
		"twice": {Generation: 99, Tasks: []*rundpb.TaskDesired{d, d}},
		"phase": {Generation: 99, Tasks: []*rundpb.TaskDesired{{TaskId: d.GetTaskId(), Phase: rundpb.Phase_PHASE_FAILED}}},
	} {
		if _, err := n.client.Apply(n.ctx(), req); status.Code(err) != codes.InvalidArgument {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// TestSweep: what a crash left without a container goes at start.
func TestSweep(t *testing.T) {
	n := newNode(t)
	n.stop()
	id := n.desired().GetTaskId()
	for _, p := range []string{filepath.Join(n.runDir, "netns", id), filepath.Join(n.runDir, "netns", id+".user")} {
		if err := os.WriteFile(p, nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.MkdirAll(filepath.Join(n.runDir, "rund", id, "log"), 0o700); err != nil {
		t.Fatal(err)
	}
	n.start()
	n.awaitEmpty()
	left, _ := filepath.Glob(n.runDir + "/*/" + id + "*")
	if len(left) != 0 {
		t.Errorf("left: %v", left)
	}
}
