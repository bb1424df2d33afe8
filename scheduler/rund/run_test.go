package rund

import (
	"os"
	"strings"
	"testing"

	"github.com/redoubt-cluster/redoubt/scheduler/rund/rundpb"
	"github.com/redoubt-cluster/redoubt/scheduler/taskpb"
)

func TestRunAndExit(t *testing.T) {
	n := newNode(t)
	d := n.desired("exit", "7")
	n.apply(d)
	a := n.awaitPhase(d.GetTaskId(), rundpb.Phase_PHASE_EXITED)
	if a.GetExitCode() != 7 || a.GetOomKilled() || a.GetError() != "" {
		t.Errorf("got %v, want exit 7", a)
	}
	if a.GetEndpoint().GetAddress() != "10.9.8.7/24" || a.GetSpec().GetContainer().GetImage() != probeRef {
		t.Errorf("endpoint or specification not reported: %v", a)
	}
}

func TestCreatedThenRunningThenStopped(t *testing.T) {
	n := newNode(t)
	d := n.desired()
	d.Phase = rundpb.Phase_PHASE_CREATED
	n.apply(d)
	a := n.awaitPhase(d.GetTaskId(), rundpb.Phase_PHASE_CREATED)
	if _, err := os.Stat(n.runDir + "/netns/" + a.GetNetns()); err != nil || a.GetContainerId() == "" {
		t.Fatalf("no sandbox: %v", err)
	}
	if n.logText(d.GetTaskId()) != "" {
		t.Fatal("a created container already ran")
	}
	d.Phase = rundpb.Phase_PHASE_RUNNING
	n.apply(d)
	n.awaitPhase(d.GetTaskId(), rundpb.Phase_PHASE_RUNNING)
	n.awaitLog(d.GetTaskId(), "ready")
	d.Phase = rundpb.Phase_PHASE_STOPPING
	n.apply(d)
	a = n.awaitPhase(d.GetTaskId(), rundpb.Phase_PHASE_EXITED)
	if a.GetExitCode() != 0 {
		t.Errorf("exit code %d, want 0 after SIGTERM", a.GetExitCode())
	}
	if log := n.logText(d.GetTaskId()); !strings.Contains(log, "got terminated") {
		t.Errorf("log %q", log)
	}
}

func TestStopBeforeStart(t *testing.T) {
	n := newNode(t)
	d := n.desired()
	d.Phase = rundpb.Phase_PHASE_CREATED
	n.apply(d)
	n.awaitPhase(d.GetTaskId(), rundpb.Phase_PHASE_CREATED)
	d.Phase = rundpb.Phase_PHASE_STOPPING
	n.apply(d)
	a := n.awaitPhase(d.GetTaskId(), rundpb.Phase_PHASE_EXITED)
	if a.GetExitCode() == 0 || a.GetError() == "" {
		t.Errorf("a task that never ran looks as if it had: %v", a)
	}
}

func TestStopSignalAndGrace(t *testing.T) {
	n := newNode(t)
	usr := n.desired("wait")
	usr.Spec.Container.StopSignal = "USR1"
	deaf := n.desired("deaf")
	deaf.Spec.Container.StopGraceNs = 300e6
	n.apply(usr, deaf)
	n.awaitPhase(usr.GetTaskId(), rundpb.Phase_PHASE_RUNNING)
	n.awaitPhase(deaf.GetTaskId(), rundpb.Phase_PHASE_RUNNING)
	n.awaitLog(usr.GetTaskId(), "ready")
	n.awaitLog(deaf.GetTaskId(), "ready")
	usr.Phase, deaf.Phase = rundpb.Phase_PHASE_STOPPING, rundpb.Phase_PHASE_STOPPING
	n.apply(usr, deaf)
	n.awaitPhase(usr.GetTaskId(), rundpb.Phase_PHASE_EXITED)
	if log := n.logText(usr.GetTaskId()); !strings.Contains(log, "got user defined signal 1") {
		t.Errorf("log %q", log)
	}
	if a := n.awaitPhase(deaf.GetTaskId(), rundpb.Phase_PHASE_EXITED); a.GetExitCode() != 137 || a.GetOomKilled() {
		t.Errorf("got %v, want 137 from SIGKILL and no OOM", a)
	}
}

func TestOutOfMemory(t *testing.T) {
	n := newNode(t)
	d := n.desired("eat", "200")
	d.Spec.Limits = &taskpb.Resources{MemoryBytes: 40 << 20}
	n.apply(d)
	if a := n.awaitPhase(d.GetTaskId(), rundpb.Phase_PHASE_EXITED); !a.GetOomKilled() || a.GetExitCode() != 137 {
		t.Errorf("got %v, want OOM and 137", a)
	}
}

func TestProcessLimit(t *testing.T) {
	n := newNode(t)
	d := n.desired("threads", "60")
	d.Spec.Limits = &taskpb.Resources{Pids: 30}
	if out := n.output(d); !strings.Contains(out, "resource temporarily unavailable") {
		t.Errorf("60 processes under a limit of 30: %s", out)
	}
}

func TestCPULimit(t *testing.T) {
	n := newNode(t)
	d := n.desired()
	d.Spec.Limits = &taskpb.Resources{NanoCpus: 250_000_000}
	n.apply(d)
	n.awaitPhase(d.GetTaskId(), rundpb.Phase_PHASE_RUNNING)
	file, want := "/sys/fs/cgroup/cpu"+parent+"/"+d.GetTaskId()+"/cpu.cfs_quota_us", "25000"
	if unified() {
		file, want = cgroupRoot+parent+"/"+d.GetTaskId()+"/cpu.max", "25000 100000"
	}
	b, err := os.ReadFile(file)
	if err != nil || strings.TrimSpace(string(b)) != want {
		t.Errorf("cpu quota %q %v, want %s", b, err, want)
	}
}

func TestEnvironmentAndUser(t *testing.T) {
	n := newNode(t)
	d := n.desired("env", "FROM", "OVER", "OWN")
	c := d.Spec.Container
	c.Env, c.User, c.Hostname = []string{"OVER=service", "OWN=x=y"}, "app", "box"
	out := n.output(d)
	for _, want := range []string{"FROM=image\n", "OVER=service\n", "OWN=x=y\n", "cwd=/home host=box uid=1000 gid=1000"} {
		if !strings.Contains(out, want) {
			t.Errorf("output lacks %q:\n%s", want, out)
		}
	}
	files := n.desired("cat", "/etc/hosts", "/etc/hostname", "/etc/resolv.conf")
	files.Spec.Container.Workdir, files.Spec.Container.Hostname = "/tmp", "box"
	out = n.output(files)
	for _, want := range []string{"10.9.8.7\tbox", "hostname: box", "nameserver 10.9.8.1"} {
		if !strings.Contains(out, want) {
			t.Errorf("output lacks %q:\n%s", want, out)
		}
	}
}

func TestTerminal(t *testing.T) {
	n := newNode(t)
	d := n.desired("echo", "on a terminal")
	d.Spec.Container.Tty = true
	if out := n.output(d); !strings.Contains(out, "on a terminal") {
		t.Errorf("output %q", out)
	}
}

func TestTmpfsAndReadOnly(t *testing.T) {
	n := newNode(t)
	d := n.desired("write", "/new", "/scratch/new", "/home/new")
	c := d.Spec.Container
	c.ReadOnly = true
	c.Mounts = []*taskpb.Mount{{Type: taskpb.Mount_TYPE_TMPFS, Target: "/scratch", TmpfsSize: 1 << 20, TmpfsMode: 0o700}}
	out := n.output(d)
	for _, want := range []string{"/new: open /new: read-only file system", "/scratch/new: <nil>", "/home/new: open /home/new: read-only"} {
		if !strings.Contains(out, want) {
			t.Errorf("output lacks %q:\n%s", want, out)
		}
	}
	mounts := n.desired("cat", "/proc/self/mounts")
	mounts.Spec.Container.Mounts = c.Mounts
	out = n.output(mounts)
	if !strings.Contains(out, "/scratch tmpfs rw,nosuid,nodev,noexec") || !strings.Contains(out, "size=1024k,mode=700") {
		t.Errorf("tmpfs options:\n%s", out)
	}
}
