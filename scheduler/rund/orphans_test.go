package rund

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/redoubt-cluster/redoubt/internal/ident"
)

// A container's process that has the arguments of another task's shim, or of
// containerd's clean-up, is neither: it would keep that task's leftovers for as
// long as it likes. Outside of a container each is what it says.
func TestContainersCannotPoseAsShims(t *testing.T) {
	n := newNode(t)
	victim := ident.New()
	cgroup := filepath.Join(hierarchies()[0], parent, ident.New())
	if err := os.MkdirAll(cgroup, 0o755); err != nil {
		t.Fatal(err)
	}
	pose := func(last string) int {
		cmd := exec.Command("/bin/sh")
		cmd.Args = []string{"containerd-shim-runc-v2", "-c", "read x", "-namespace", Namespace, "-id", victim, last}
		in, err := cmd.StdinPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() {
			in.Close()
			_ = cmd.Wait() // its code says nothing
		})
		return cmd.Process.Pid
	}
	t.Cleanup(func() { // before the directory goes, its processes have
		if err := unix.Rmdir(cgroup); err != nil {
			t.Error(err)
		}
	})
	shim, cleaner := pose("start"), pose("delete")
	found := func() (shims, cleaners []int) {
		shims, err := n.server.orphans(victim)
		if err != nil {
			t.Fatal(err)
		}
		cleaners, err = n.server.processes(func(args []string) bool { return isCleaner(args, victim) })
		if err != nil {
			t.Fatal(err)
		}
		return shims, cleaners
	}
	if shims, cleaners := found(); !slices.Equal(shims, []int{shim}) || !slices.Equal(cleaners, []int{cleaner}) {
		t.Errorf("outside of a container: %v and %v, want %d and %d", shims, cleaners, shim, cleaner)
	}
	for _, pid := range []int{shim, cleaner} {
		if err := os.WriteFile(filepath.Join(cgroup, "cgroup.procs"), fmt.Append(nil, pid), 0); err != nil {
			t.Fatal(err)
		}
	}
	if shims, cleaners := found(); len(shims)+len(cleaners) > 0 {
		t.Errorf("in a container: %v and %v", shims, cleaners)
	}
	ctx, cancel := context.WithTimeout(t.Context(), deadline)
	defer cancel()
	if more, err := n.server.awaitCleaners(ctx, victim); more || err != nil {
		t.Errorf("a container's process was waited for: %v", err)
	}
}
