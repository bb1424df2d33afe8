package node

import (
	"runtime"

	"golang.org/x/sys/unix"

	"github.com/redoubt-cluster/redoubt/scheduler/taskpb"
)

// machineResources is what the machine has.
func machineResources() *taskpb.Resources {
	r := &taskpb.Resources{NanoCpus: int64(runtime.NumCPU()) * 1e9}
	var info unix.Sysinfo_t
	if err := unix.Sysinfo(&info); err == nil {
		r.MemoryBytes = int64(info.Totalram) * int64(info.Unit)
	}
	return r
}

func kernelRelease() string {
	var u unix.Utsname
	if err := unix.Uname(&u); err != nil {
		return ""
	}
	return unix.ByteSliceToString(u.Release[:])
}
