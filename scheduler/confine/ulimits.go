package confine

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/redoubt-cluster/redoubt/scheduler/taskpb"
)

// ulimits are those that a process of a container may have otherwise than its node's
// containerd. core is not among them: no container's memory goes into files of the
// node. Nor are those that give a priority over others.
var ulimits = map[string]int{
	"cpu": unix.RLIMIT_CPU, "data": unix.RLIMIT_DATA, "fsize": unix.RLIMIT_FSIZE, "memlock": unix.RLIMIT_MEMLOCK, "msgqueue": unix.RLIMIT_MSGQUEUE,
	"nofile": unix.RLIMIT_NOFILE, "nproc": unix.RLIMIT_NPROC, "sigpending": unix.RLIMIT_SIGPENDING, "stack": unix.RLIMIT_STACK,
}

// UlimitNames are all of them, sorted.
func UlimitNames() []string { return slices.Sorted(maps.Keys(ulimits)) }

// Rlimit is what the kernel takes.
func Rlimit(u *taskpb.Ulimit) (resource int, limit unix.Rlimit) {
	return ulimits[u.GetName()], unix.Rlimit{Cur: bound(u.GetSoft()), Max: bound(u.GetHard())}
}

func bound(n int64) uint64 {
	if n < 0 {
		return unix.RLIM_INFINITY
	}
	return uint64(n)
}

func checkUlimits(list []*taskpb.Ulimit) error {
	if err := atMost("ulimits", len(list), maxUlimits); err != nil {
		return err
	}
	seen := map[string]bool{}
	for _, u := range list {
		name := u.GetName()
		switch _, known := ulimits[name]; {
		case name == "core":
			return fmt.Errorf("ulimit core: no container's memory goes into a file of the node: leave it out")
		case !known:
			return fmt.Errorf("ulimit %q is none that a container may have: use %s", clip(name), strings.Join(UlimitNames(), ", "))
		case seen[name]:
			return fmt.Errorf("ulimit %s is given twice: keep one", name)
		case u.GetSoft() < -1 || u.GetHard() < -1:
			return fmt.Errorf("ulimit %s is negative: use 0 or more, or -1 for no bound", name)
		case bound(u.GetSoft()) > bound(u.GetHard()):
			return fmt.Errorf("ulimit %s: the soft limit is above the hard one", name)
		}
		seen[name] = true
	}
	return nil
}
