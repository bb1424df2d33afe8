package sandbox

import (
	"fmt"
	"slices"

	seccomp "github.com/elastic/go-seccomp-bpf"
	"github.com/elastic/go-seccomp-bpf/arch"
	"golang.org/x/sys/unix"
)

// Filter names a seccomp filter.
type Filter int

const (
	// Minimal allows only what a Go program needs that serves passed unix
	// sockets and its own files: no socket(2), connect(2), exec or namespaces.
	Minimal Filter = iota
	// Network denies everything privileged and exec; sockets are allowed.
	Network
	// NetworkAdmin is Network that may also enter a network namespace.
	NetworkAdmin
	// Runtime may mount and enter namespaces; exec and the rest stay denied.
	Runtime
	// Resolver is Minimal that may also make and connect sockets of the internet
	// protocols.
	Resolver
	// Plugins is NetworkAdmin that may also start programs, which inherit it.
	Plugins
)

func (f Filter) String() string {
	return [...]string{"minimal allow-list", "network", "network, setns(CLONE_NEWNET)", "runtime", "minimal allow-list, connections", "network, setns(CLONE_NEWNET), exec"}[f]
}

// What the Go runtime and file handling need, on any architecture.
var minimal = []string{
	"accept4", "brk", "clock_getres", "clock_gettime", "clock_nanosleep", "close", "dup3", "epoll_create1", "epoll_ctl",
	"epoll_pwait", "epoll_pwait2", "epoll_wait", "eventfd2", "exit", "exit_group", "fallocate", "fchmod", "fchmodat", "fchmodat2", "fcntl",
	"fdatasync", "flock", "fstat", "fstatfs", "fsync", "ftruncate", "futex", "getcwd", "getdents64", "getegid", "geteuid", "getgid",
	"getpeername", "getpid", "getppid", "getrandom", "getrlimit", "getrusage", "getsockname", "getsockopt", "gettid",
	"gettimeofday", "getuid", "landlock_restrict_self", "lseek", "lstat", "madvise", "membarrier", "mincore", "mkdirat", "mlock", "mlock2", "mmap",
	"mprotect", "mremap", "munlock", "munmap", "nanosleep", "newfstatat", "open", "openat", "pidfd_send_signal", "pipe2", "ppoll", "prctl", "pread64",
	"prlimit64", "pwrite64", "read", "readlinkat", "readv", "recvfrom", "recvmsg", "renameat", "renameat2", "restart_syscall",
	"rseq", "rt_sigaction", "rt_sigprocmask", "rt_sigreturn", "rt_sigtimedwait", "sched_getaffinity", "sched_yield", "sendmsg", "sendto",
	"set_robust_list", "setitimer", "setsockopt", "shutdown", "sigaltstack", "stat", "statfs", "statx", "sysinfo", "tgkill", "timer_create",
	"timer_delete", "timer_settime", "uname", "unlink", "unlinkat", "write", "writev",
}

// What no daemon of ours has any business with.
var never = []string{
	"_sysctl", "acct", "add_key", "adjtimex", "bpf", "chroot", "clock_adjtime", "clock_settime", "create_module", "delete_module",
	"fanotify_init", "finit_module", "get_kernel_syms", "init_module", "io_uring_enter", "io_uring_register", "io_uring_setup",
	"ioperm", "iopl", "kcmp", "kexec_file_load", "kexec_load", "keyctl", "lookup_dcookie", "mbind", "migrate_pages", "modify_ldt",
	"move_pages", "name_to_handle_at", "nfsservctl", "open_by_handle_at", "perf_event_open", "personality", "pidfd_getfd",
	"pivot_root", "process_madvise", "process_vm_readv", "process_vm_writev", "ptrace", "query_module", "quotactl", "quotactl_fd", "reboot",
	"request_key", "set_mempolicy", "sethostname", "setdomainname", "settimeofday", "stime", "swapoff", "swapon", "sysfs", "syslog",
	"uselib", "userfaultfd", "ustat", "vhangup", "vm86", "vm86old",
}

var (
	execs  = []string{"execve", "execveat"}
	mounts = []string{"fsconfig", "fsmount", "fsopen", "fspick", "mount", "mount_setattr", "move_mount", "open_tree", "umount", "umount2", "unshare"}
)

const newNamespaces = unix.CLONE_NEWCGROUP | unix.CLONE_NEWIPC | unix.CLONE_NEWNET | unix.CLONE_NEWNS |
	unix.CLONE_NEWPID | unix.CLONE_NEWTIME | unix.CLONE_NEWUSER | unix.CLONE_NEWUTS

func (f Filter) policy() (seccomp.Policy, error) {
	info, err := arch.GetInfo("")
	if err != nil {
		return seccomp.Policy{}, err
	}
	known := func(names ...[]string) []string {
		return slices.DeleteFunc(slices.Concat(names...), func(n string) bool { _, ok := info.SyscallNames[n]; return !ok })
	}
	// clone3 hides its flags from the filter; ENOSYS makes callers use clone.
	clone3 := seccomp.SyscallGroup{Names: known([]string{"clone3"}), Action: seccomp.ActionErrno | seccomp.Action(unix.ENOSYS)}
	threadsOnly := seccomp.NameWithConditions{Name: "clone", Conditions: seccomp.ArgumentConditions{
		{Argument: 0, Operation: seccomp.BitsSet, Value: newNamespaces}}}
	if f == Minimal || f == Resolver {
		allow := seccomp.SyscallGroup{Action: seccomp.ActionAllow, Names: known(minimal), NamesWithCondtions: []seccomp.NameWithConditions{{
			Name: "clone", Conditions: seccomp.ArgumentConditions{{Argument: 0, Operation: seccomp.BitsNotSet, Value: newNamespaces}}}}}
		if f == Resolver {
			allow.Names = append(allow.Names, known([]string{"connect"})...)
			for _, family := range []uint64{unix.AF_INET, unix.AF_INET6} {
				for _, protocol := range []uint64{0, unix.IPPROTO_TCP, unix.IPPROTO_UDP} { // not MPTCP, which Landlock does not see
					allow.NamesWithCondtions = append(allow.NamesWithCondtions, seccomp.NameWithConditions{Name: "socket", Conditions: seccomp.ArgumentConditions{
						{Argument: 0, Operation: seccomp.Equal, Value: family}, {Argument: 2, Operation: seccomp.Equal, Value: protocol}}})
				}
			}
		}
		return seccomp.Policy{DefaultAction: seccomp.ActionErrno, Syscalls: []seccomp.SyscallGroup{clone3, allow}}, nil
	}
	deny := seccomp.SyscallGroup{Action: seccomp.ActionErrno, Names: known(never, execs),
		// Landlock restricts TCP, not MPTCP; Go falls back to TCP.
		NamesWithCondtions: []seccomp.NameWithConditions{{Name: "socket", Conditions: seccomp.ArgumentConditions{
			{Argument: 2, Operation: seccomp.Equal, Value: unix.IPPROTO_MPTCP}}}}}
	if f == Plugins {
		deny.Names = known(never)
	}
	switch f {
	case Network:
		deny.Names = append(deny.Names, known(mounts, []string{"setns"})...)
		deny.NamesWithCondtions = append(deny.NamesWithCondtions, threadsOnly)
	case NetworkAdmin, Plugins:
		deny.Names = append(deny.Names, known(mounts)...)
		deny.NamesWithCondtions = append(deny.NamesWithCondtions, threadsOnly, seccomp.NameWithConditions{
			Name: "setns", Conditions: seccomp.ArgumentConditions{{Argument: 1, Operation: seccomp.NotEqual, Value: unix.CLONE_NEWNET}}})
	case Runtime: // and bounds volumes by quotas of a directory that it has open
		deny.Names = slices.DeleteFunc(deny.Names, func(n string) bool { return n == "quotactl_fd" })
	default:
		return seccomp.Policy{}, fmt.Errorf("unknown seccomp filter %d", f)
	}
	return seccomp.Policy{DefaultAction: seccomp.ActionAllow, Syscalls: []seccomp.SyscallGroup{clone3, deny}}, nil
}

func (f Filter) load() error {
	policy, err := f.policy()
	if err != nil {
		return fmt.Errorf("seccomp: %w", err)
	}
	if err := seccomp.LoadFilter(seccomp.Filter{NoNewPrivs: true, Flag: seccomp.FilterFlagTSync, Policy: policy}); err != nil {
		return fmt.Errorf("seccomp: %w", err)
	}
	return nil
}
