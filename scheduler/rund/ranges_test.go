package rund

import (
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/redoubt-cluster/redoubt/scheduler/rund/rundpb"
	"github.com/redoubt-cluster/redoubt/scheduler/taskpb"
)

func isolated(d *rundpb.TaskDesired) *rundpb.TaskDesired {
	d.Spec.Container.Isolation = taskpb.Isolation_ISOLATION_USERNS
	return d
}

// TestOwnRange: a task that wants so is nobody to the others, outside and in their
// files; it keeps its range over a restart of rund, and another gets it when it is gone.
func TestOwnRange(t *testing.T) {
	data := t.TempDir()
	if err := os.Chmod(data, 0o755); err != nil {
		t.Fatal(err)
	}
	n := newNode(t, func(c *Config) {
		c.BindMounts = []BindMount{{Path: data}}
		c.UserNS.Tasks = TaskRanges{Base: 0x4200_0000, Count: 2}
	})
	// What leaked of a container, and what is the node's.
	for name, owner := range map[string]int{"shared": int(n.config.UserNS.Base), "root": 0} {
		path := filepath.Join(data, name)
		if err := os.WriteFile(path, []byte("of "+name), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Chown(path, owner, owner); err != nil {
			t.Fatal(err)
		}
	}
	bound := func(d *rundpb.TaskDesired) *rundpb.TaskDesired {
		d.Spec.Container.Mounts = []*taskpb.Mount{{Type: taskpb.Mount_TYPE_BIND, Source: data, Target: "/leak"}}
		return d
	}
	if out := n.output(bound(n.desired("cat", "/leak/shared", "/leak/root"))); !strings.Contains(out, "of shared") || strings.Contains(out, "of root") {
		t.Errorf("by the range of all: %s", out)
	}
	if out := n.output(bound(isolated(n.desired("cat", "/leak/shared", "/leak/root", "/etc/passwd")))); strings.Contains(out, "of shared") || strings.Contains(out, "of root") || !strings.Contains(out, "app:x:1000") {
		t.Errorf("by a range of its own: %s", out)
	}
	if out := n.output(bound(isolated(n.desired("write", "/leak/root", "/leak/new", "/home/mine", "/mine")))); strings.Count(out, "permission denied") != 2 || strings.Count(out, "<nil>") != 2 {
		t.Errorf("writing: %s", out)
	}
	n.apply()
	n.awaitEmpty()

	a, b, all := isolated(n.desired()), isolated(n.desired()), n.desired()
	a.Spec.Container.User = "app"
	base := func(d *rundpb.TaskDesired) uint64 {
		t.Helper()
		n.awaitPhase(d.TaskId, rundpb.Phase_PHASE_RUNNING)
		n.awaitLog(d.TaskId, "ready")
		m, err := os.ReadFile("/proc/" + n.pid(d.TaskId) + "/uid_map")
		if err != nil {
			t.Fatal(err)
		}
		got, err := strconv.ParseUint(strings.Fields(string(m))[1], 10, 32)
		if err != nil {
			t.Fatal(err)
		}
		uid := got
		if d.Spec.Container.User != "" {
			uid += 1000
		}
		if s := procStatus(t, n.pid(d.TaskId)); strings.Fields(s["Uid"])[0] != strconv.FormatUint(uid, 10) {
			t.Errorf("%s of %d..: %s", d.TaskId, got, s["Uid"])
		}
		return got
	}
	n.apply(a, b, all)
	was := map[string]uint64{a.TaskId: base(a), b.TaskId: base(b), all.TaskId: base(all)}
	if was[a.TaskId] == was[b.TaskId] || was[a.TaskId] < 0x4200_0000 || was[b.TaskId] < 0x4200_0000 || was[all.TaskId] != uint64(n.config.UserNS.Base) {
		t.Errorf("%x", was)
	}
	for _, r := range n.running() {
		if uint64(r.Base) != was[r.Task] {
			t.Errorf("%s is to have %x, and is judged by %x", r.Task, was[r.Task], r.Base)
		}
	}
	full := isolated(n.desired())
	n.apply(a, b, all, full)
	if got := n.await(full.TaskId, "its refusal", func(a *rundpb.TaskActual) bool { return a.GetPhase() == rundpb.Phase_PHASE_FAILED }); !strings.Contains(got.GetError(), "all 2 ranges") {
		t.Errorf("%v", got)
	}
	n.stop()
	n.start()
	n.apply(a, all) // b goes
	n.await(a.TaskId, "a", func(a *rundpb.TaskActual) bool { return a.GetPhase() == rundpb.Phase_PHASE_RUNNING })
	if err := n.watch(func(all map[string]*rundpb.TaskActual) bool { return all[b.TaskId] == nil && all[full.TaskId] == nil }); err != nil {
		t.Fatal(err)
	}
	next := isolated(n.desired())
	n.apply(a, all, next)
	if got := base(next); got != was[b.TaskId] || base(a) != was[a.TaskId] {
		t.Errorf("the next has %x; before it had %x", got, was)
	}
}

func TestRangesConfig(t *testing.T) {
	for want, tasks := range map[string]TaskRanges{
		"at most 1024":         {Base: 0x4200_0000, Count: 1025},
		"host's own accounts":  {Base: 0, Count: 1},
		"must end below":       {Base: 0x7fff_0000, Count: 2},
		"overlap the range":    {Base: 0x4000_0000, Count: 1},
		"overlap the range of": {Base: 0x3fff_8000, Count: 2},
	} {
		c := Defaults()
		c.UserNS.Tasks = tasks
		if err := c.Validate(); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v: %v, want %q", tasks, err, want)
		}
	}
	c := Defaults()
	if c.UserNS.Tasks = (TaskRanges{}); c.Validate() != nil || newRanges(c).feature().GetPresent() {
		t.Error("a node without ranges")
	}
	r := newRanges(Defaults())
	for _, label := range []string{"", "x", "0", "-1", "4294967295"} {
		if r.recall("t", label) == nil {
			t.Errorf("%q was taken for a range", label)
		}
	}
	if err := r.recall("t", "1107296257"); err != nil { // between those of this configuration
		t.Fatal(err)
	}
	if err := r.recall("u", "1107300000"); err == nil {
		t.Error("two tasks have the same ids")
	}
}
