package rund

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/containerd/containerd/v2/pkg/namespaces"

	"github.com/redoubt-cluster/redoubt/internal/ident"
	"github.com/redoubt-cluster/redoubt/scheduler/imagepolicy/imagepolicytest"
	"github.com/redoubt-cluster/redoubt/scheduler/rund/rundpb"
	"github.com/redoubt-cluster/redoubt/scheduler/rund/taskfiles"
)

// TestInventory: what runs is listed as containerd and the kernel have it, with what
// the policies in force say of it and the files that are there.
func TestInventory(t *testing.T) {
	n := newNode(t)
	d := n.desired()
	d.Spec.Container.User, d.Spec.Container.ReadOnly = "app", true
	n.apply(d)
	n.awaitPhase(d.GetTaskId(), rundpb.Phase_PHASE_RUNNING)
	n.awaitLog(d.GetTaskId(), "ready")
	of := func(task string) *Running {
		t.Helper()
		all, err := n.server.inventory(namespaces.WithNamespace(n.ctx(), Namespace))
		if err != nil {
			t.Fatal(err)
		}
		for _, r := range all {
			if r.Task == task {
				return &r
			}
		}
		return nil
	}
	r := of(d.GetTaskId())
	if r == nil || r.Made != n.digest || r.Wanted != n.digest || r.Layers == "" || r.Layers != r.Should || r.Refused != "" || len(r.Granted)+len(r.Files) != 0 {
		t.Fatalf("%+v", r)
	}
	if mustAtoi(t, n.pid(d.GetTaskId())) != r.PID || r.User != 1000 || !r.ReadOnly || r.Base != n.config.UserNS.Base || r.Size != n.config.UserNS.Size {
		t.Errorf("%+v", r)
	}
	// What runs goes on under another policy, and is told.
	n.policy = signedBy(imagepolicytest.NewSigner(), "redoubt.test/*", "")
	n.apply(d)
	if r := of(d.GetTaskId()); r == nil || !strings.Contains(r.Refused, "rule own: it has no signature by release") {
		t.Errorf("%+v", r)
	}
	n.policy = "format: 1\nrules:\n  - {name: own, images: [redoubt.test/*], unsigned: true}\n"
	n.apply(d)
	if r := of(d.GetTaskId()); r == nil || !strings.Contains(r.Refused, "nothing but its name says where it is from") {
		t.Errorf("%+v", r)
	}
	// Files that nobody granted.
	stray := ident.New()
	for _, task := range []string{stray, d.GetTaskId()} {
		f := taskfiles.File{Dir: taskfiles.Secrets, Name: "token", UID: int(n.config.UserNS.Base), GID: int(n.config.UserNS.Base), Mode: 0o400, Data: []byte("x")}
		if err := n.server.files.Put(task, []taskfiles.File{f}, []byte("{}")); err != nil {
			t.Fatal(err)
		}
		if r := of(task); r == nil || r.Files["secrets"] != 1 || r.Granted["secrets"] != 0 || (r.PID == 0) != (task == stray) {
			t.Errorf("%s: %+v", task, r)
		}
	}
	if err := n.server.files.Remove(stray); err != nil {
		t.Error(err)
	}
	if r := of(stray); r != nil {
		t.Errorf("%+v", r)
	}
}

// TestInventoryUnderLock: what ran before the lock goes on, and is told, until a deployer
// has signed it; so is what somebody does to the file of the lock.
func TestInventoryUnderLock(t *testing.T) {
	n := newNode(t)
	d := n.desired()
	n.apply(d)
	n.awaitPhase(d.GetTaskId(), rundpb.Phase_PHASE_RUNNING)
	unsigned := func() string {
		t.Helper()
		all, err := n.server.inventory(namespaces.WithNamespace(n.ctx(), Namespace))
		if err != nil || len(all) != 1 {
			t.Fatalf("%v, %v", all, err)
		}
		return all[0].Unsigned
	}
	if got := unsigned(); got != "" || n.server.locked() != (Locked{}) {
		t.Errorf("without a lock: %q, %+v", got, n.server.locked())
	}
	s := n.deployer()
	if got := unsigned(); !strings.Contains(got, "rule signed") || n.server.locked() != (Locked{On: true}) {
		t.Errorf("unsigned: %q, %+v", got, n.server.locked())
	}
	s.signs(d, 1)
	n.apply(d)
	if got := unsigned(); got != "" {
		t.Errorf("once it is signed: %q", got)
	}
	if err := os.Remove(filepath.Join(base, "data", "rund", "lock")); err != nil {
		t.Fatal(err)
	}
	if l := n.server.locked(); !l.On || !strings.Contains(l.Changed, "is gone") {
		t.Errorf("%+v", l)
	}
}
