package rund

import (
	"golang.org/x/sys/unix"

	"github.com/redoubt-cluster/redoubt/internal/sandbox"
)

// Profile is what rund keeps of root's power: to mount, to give files to the
// user namespace's range, and to map that range. It executes nothing; programs
// are started by containerd. Landlock cannot be used since it forbids mount.
func Profile() sandbox.Profile {
	return sandbox.Profile{
		Syscalls: sandbox.Runtime,
		Capabilities: []sandbox.Capability{
			unix.CAP_CHOWN, unix.CAP_DAC_OVERRIDE, unix.CAP_FOWNER, unix.CAP_FSETID, // remap images
			unix.CAP_SETUID, unix.CAP_SETGID, // write uid_map and gid_map
			unix.CAP_SYS_ADMIN, // mount
			unix.CAP_KILL,      // the process that held a new namespace
		},
	}
}
