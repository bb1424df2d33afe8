package rund

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/mutate"

	"github.com/redoubt-cluster/redoubt/scheduler/rund/rundpb"
	"github.com/redoubt-cluster/redoubt/scheduler/taskpb"
)

func checkedEvery(interval time.Duration, retries uint32, test ...string) *taskpb.Healthcheck {
	return &taskpb.Healthcheck{Test: test, IntervalNs: int64(interval), StartIntervalNs: int64(interval), TimeoutNs: int64(20 * time.Second), Retries: retries}
}

func (n *node) awaitHealth(id string, h rundpb.Health) *rundpb.TaskActual {
	n.t.Helper()
	return n.await(id, h.String(), func(a *rundpb.TaskActual) bool {
		return a.GetPhase() == rundpb.Phase_PHASE_RUNNING && a.GetHealth() == h
	})
}

// TestHealthyThenNot: a check that passes makes a task healthy; when it fails
// often enough the container is ended, with the reason. The state outlives rund.
func TestHealthyThenNot(t *testing.T) {
	n := newNode(t)
	d := n.desired()
	d.Spec.Container.User = "app"
	d.Spec.Container.Healthcheck = checkedEvery(time.Second, 2, "CMD", "/probe", "test", "/home/well")
	n.apply(d)
	a := n.await(d.GetTaskId(), "a check that fails", func(a *rundpb.TaskActual) bool { return strings.Contains(a.GetMessage(), "healthcheck") })
	if a.GetHealth() != rundpb.Health_HEALTH_STARTING || !strings.Contains(a.GetMessage(), "exit code 1: stat /home/well: no such file") {
		t.Errorf("while it fails: %v", a)
	}
	n.apply() // gone: the first life was only to see it fail
	n.awaitEmpty()

	d = n.desired()
	d.Spec.Container.Healthcheck = checkedEvery(time.Second, 2, "CMD", "/probe", "test", "/tmp/../home")
	n.apply(d)
	n.awaitHealth(d.GetTaskId(), rundpb.Health_HEALTH_HEALTHY)
	n.restart()
	if a := n.awaitPhase(d.GetTaskId(), rundpb.Phase_PHASE_RUNNING); a.GetHealth() != rundpb.Health_HEALTH_HEALTHY {
		t.Errorf("a restart of rund made it %v", a.GetHealth())
	}
}

func TestUnhealthyIsEnded(t *testing.T) {
	n := newNode(t)
	for name, c := range map[string]struct {
		check *taskpb.Healthcheck
		want  string
	}{
		"fails":      {checkedEvery(time.Second, 2, "CMD", "/probe", "test", "/nothing"), "unhealthy: exit code 1: stat /nothing"},
		"no program": {checkedEvery(time.Second, 1, "CMD", "/nope"), "the image has no program /nope"},
		"no shell":   {checkedEvery(time.Second, 1, "CMD-SHELL", "exit 0"), "the image has no program /bin/sh"},
		"hangs": {&taskpb.Healthcheck{Test: []string{"CMD", "/probe", "deaf"}, IntervalNs: int64(time.Second), TimeoutNs: int64(time.Second), Retries: 1},
			"no end within 1s: ready"},
		"floods": {&taskpb.Healthcheck{Test: []string{"CMD", "/probe", "flood", "10000000"}, IntervalNs: int64(time.Second), TimeoutNs: int64(2 * time.Second), Retries: 1},
			"no end within 2s: line 0 xxx"},
	} {
		t.Run(name, func(t *testing.T) {
			d := n.desired()
			d.Spec.Container.Healthcheck = c.check
			n.apply(d)
			a := n.awaitPhase(d.GetTaskId(), rundpb.Phase_PHASE_EXITED)
			if !strings.Contains(a.GetError(), c.want) || strings.ContainsAny(a.GetError(), "\n") || len(a.GetError()) > 400 {
				t.Errorf("error %q, want %q", a.GetError(), c.want)
			}
			if log := n.logText(d.GetTaskId()); log != "ready\ngot terminated\n" {
				t.Errorf("the container's log: %q", log) // checks do not write there
			}
		})
	}
}

// TestLongChecksKeepNobodyUp: a service whose checks take their whole hour, in
// as many tasks as there are places, leaves others theirs.
func TestLongChecksKeepNobodyUp(t *testing.T) {
	n := newNode(t)
	var all []*rundpb.TaskDesired
	for range parallelChecks {
		d := n.desired()
		d.Spec.Container.Healthcheck = checkedEvery(time.Second, 1, "CMD", "/probe", "deaf")
		d.Spec.Container.Healthcheck.TimeoutNs = int64(time.Hour)
		all = append(all, d)
	}
	n.apply(all...)
	for _, d := range all {
		n.awaitPhase(d.GetTaskId(), rundpb.Phase_PHASE_RUNNING)
	}
	for until := time.Now().Add(deadline); ; {
		under := 0
		for _, d := range all {
			if _, err := os.Stat(filepath.Join(string(n.server.taskDir(d.GetTaskId())), "check")); err == nil {
				under++
			}
		}
		if under == parallelChecks {
			break
		}
		if time.Now().After(until) {
			t.Fatalf("%d of %d checks began", under, parallelChecks)
		}
	}
	d := n.desired()
	d.Spec.Container.Healthcheck = checkedEvery(time.Second, 1, "CMD", "/probe", "test", "/home")
	n.apply(append(all, d)...)
	n.awaitHealth(d.GetTaskId(), rundpb.Health_HEALTH_HEALTHY)
}

// TestCheckIsConfined: a check may do no more than the container.
func TestCheckIsConfined(t *testing.T) {
	n := newNode(t)
	d := n.desired()
	d.Spec.Container.User = "app"
	d.Spec.Container.Healthcheck = checkedEvery(time.Second, 1, "CMD", "/probe", "whoami", "fail")
	n.apply(d)
	a := n.awaitPhase(d.GetTaskId(), rundpb.Phase_PHASE_EXITED)
	for _, want := range []string{"Uid:1000", "CapEff:0000000000000000", "CapBnd:0000000000000000", "NoNewPrivs:1", "Seccomp:2"} {
		if !strings.Contains(a.GetError(), want) {
			t.Errorf("%q lacks %s", a.GetError(), want)
		}
	}
}

// TestImagesCheck: HEALTHCHECK of an image holds, and a service may switch it
// off.
func TestImagesCheck(t *testing.T) {
	n := newNode(t)
	config, err := probeImage.ConfigFile()
	if err != nil {
		t.Fatal(err)
	}
	config = config.DeepCopy()
	config.Config.Healthcheck = &v1.HealthConfig{Test: []string{"CMD", "/probe", "test", "/nothing"}, Interval: time.Second, Retries: 1}
	img, err := mutate.ConfigFile(probeImage, config)
	if err != nil {
		t.Fatal(err)
	}
	digest := n.load("redoubt.test/checked:1", img)
	d, off := n.desired(), n.desired()
	for _, x := range []*rundpb.TaskDesired{d, off} {
		x.Spec.Container.Image, x.Spec.Container.Digest = "redoubt.test/checked:1", digest
	}
	off.Spec.Container.Healthcheck = &taskpb.Healthcheck{Test: []string{"NONE"}}
	n.apply(d, off)
	if a := n.awaitPhase(d.GetTaskId(), rundpb.Phase_PHASE_EXITED); !strings.Contains(a.GetError(), "unhealthy") {
		t.Errorf("got %v", a)
	}
	if a := n.awaitPhase(off.GetTaskId(), rundpb.Phase_PHASE_RUNNING); a.GetHealth() != rundpb.Health_HEALTH_UNSPECIFIED {
		t.Errorf("got %v", a)
	}
}

// TestKillAt: a stop that is under way ends when the time is up.
func TestKillAt(t *testing.T) {
	n := newNode(t)
	d := n.desired("deaf")
	d.Spec.Container.StopGraceNs = int64(time.Hour)
	n.apply(d)
	n.awaitPhase(d.GetTaskId(), rundpb.Phase_PHASE_RUNNING)
	n.awaitLog(d.GetTaskId(), "ready")
	d.Phase = rundpb.Phase_PHASE_STOPPING
	n.apply(d)
	n.awaitPhase(d.GetTaskId(), rundpb.Phase_PHASE_STOPPING)
	d.KillAt = time.Now().UnixNano()
	n.apply(d)
	if a := n.awaitPhase(d.GetTaskId(), rundpb.Phase_PHASE_EXITED); a.GetExitCode() != 137 {
		t.Errorf("got %v", a)
	}
}
