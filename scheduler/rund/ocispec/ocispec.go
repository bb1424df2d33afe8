// Package ocispec builds the OCI runtime specification of a task's container
// from what is already decided: pure computation, no I/O.
//
// It starts from nothing rather than from a library's defaults, so everything a
// container may do can be read here:
//
//   - its own user, mount, pid, ipc, uts and cgroup namespaces; user and network
//     namespace are the sandbox's, joined by path;
//   - the container's root holds CAP_CHOWN, DAC_OVERRIDE, FOWNER, FSETID, KILL,
//     SETGID and SETUID: what entrypoints need that prepare a directory and then
//     become another user. NET_RAW, MKNOD, SETFCAP, AUDIT_WRITE, SYS_CHROOT and
//     SETPCAP, which other runtimes give, are not among them. NET_BIND_SERVICE is not
//     needed since every port may be bound. Another user than root holds none;
//     What was added is held by any user, and what was dropped by none;
//   - no_new_privs, the default seccomp filter or one that the node has, masked and
//     read-only paths;
//   - devices are null, zero, full, random, urandom, tty and a pty multiplexer, and
//     those that the node allows;
//   - a bound on processes always, on memory and CPU on request, no swap beyond
//     the memory limit;
//   - tmpfs and bind mounts with nosuid and nodev;
//   - the directory of its Workload API's socket, read-only, unless it wants no identity;
//   - its secrets and configs, read-only;
//   - where entry nodes lead clients to it, the program redoubt-proxy, read-only.
package ocispec

import (
	"fmt"
	"maps"
	"path"
	"strings"

	"github.com/containerd/containerd/v2/contrib/seccomp"
	specs "github.com/opencontainers/runtime-spec/specs-go"

	"github.com/redoubt-cluster/redoubt/scheduler/confine"
	"github.com/redoubt-cluster/redoubt/scheduler/places"
)

// Container is what a specification is built from. Paths are on the host.
type Container struct {
	Args     []string
	Env      []string
	Cwd      string
	User     specs.User
	Hostname string
	ReadOnly bool
	Terminal bool
	// Held are the capabilities of its first process.
	Held []string
	// Seccomp is a filter of system calls in the place of the default one; Unconfined:
	// there is none.
	Seccomp    *specs.LinuxSeccomp
	Unconfined bool
	Sysctls    map[string]string
	Devices    []Device
	// Init is a program that is its first process, and starts Args; empty: none.
	Init string

	UserNS, NetNS string
	IDBase        uint32
	IDSize        uint32

	CgroupsPath  string
	NanoCPUs     int64 // limit; 0: none
	Shares       int64 // reserved nano CPUs; 0: default weight
	MemoryBytes  int64 // limit; 0: none
	MemoryLow    int64 // reserved; 0: none
	Pids         int64
	Hosts        string
	HostnameFile string
	ResolvConf   string
	Mounts       []Mount
	// Identity is the directory of the Workload API's socket; empty: there is none.
	Identity string
	// Files are directories and files of secrets and configs, all of them read-only.
	Files []Mount
	// Relay is the program of redoubt-proxy; empty: it is not to be started there.
	Relay string
}

// RelayProgram is where the container has it: nothing of an image is there.
const RelayProgram = "/dev/redoubt-proxy"

// InitProgram is where the container has its init.
const InitProgram = "/dev/redoubt-init"

// Device is one of the node's, at Source there.
type Device struct {
	Source, Target string
	Access         string
	Type           string // c or b
	Major, Minor   int64
}

// Where a container has the Workload API, and how it is told. The variable is no
// secret.
const (
	IdentityDir = places.IdentityDir
	IdentityEnv = "SPIFFE_ENDPOINT_SOCKET=unix://" + IdentityDir + "/agent.sock"
)

// Mount is a mount the user asked for.
type Mount struct {
	Target   string
	Source   string // bind; empty: tmpfs
	ReadOnly bool
	Size     int64  // tmpfs
	Mode     uint32 // tmpfs; 0: 1777
}

// outOfMemory is how soon the kernel ends a container's process where the machine has
// no memory left: before those of the node. Else it would be what containerd is given,
// which Debian protects more than redoubtd (-999): a container without a limit would
// end everything else first. To raise it needs no privilege.
const outOfMemory = 200

var maskedPaths = []string{
	"/proc/acpi", "/proc/asound", "/proc/interrupts", "/proc/kcore", "/proc/keys", "/proc/key-users", "/proc/kallsyms", "/proc/kmsg",
	"/proc/latency_stats", "/proc/sched_debug", "/proc/scsi", "/proc/sysrq-trigger", "/proc/timer_list", "/proc/timer_stats",
	"/sys/devices/virtual/powercap", "/sys/firmware", "/sys/fs/pstore", "/sys/kernel/debug", "/sys/kernel/security", "/sys/kernel/tracing",
}

// /sys/fs/cgroup: under cgroup v1 the runtime leaves the tmpfs that holds the
// hierarchies writable.
var readonlyPaths = []string{"/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/sys/fs/cgroup"}

const (
	cpuPeriod  = 100_000 // µs
	minQuota   = 1_000   // µs; the kernel's floor
	shmBytes   = 64 << 20
	nanoPerCPU = 1_000_000_000
)

// Build returns the specification.
func Build(c Container) (*specs.Spec, error) {
	if len(c.Args) == 0 {
		return nil, fmt.Errorf("nothing to run: neither the service nor the image names a command")
	}
	if c.User.UID >= c.IDSize || c.User.GID >= c.IDSize {
		return nil, fmt.Errorf("user %d:%d lies outside the user namespace of %d ids", c.User.UID, c.User.GID, c.IDSize)
	}
	if err := CheckCwd(c.Cwd); err != nil {
		return nil, err
	}
	for _, g := range c.User.AdditionalGids {
		if g >= c.IDSize {
			return nil, fmt.Errorf("group %d lies outside the user namespace of %d ids", g, c.IDSize)
		}
	}
	args := c.Args
	if c.Init != "" {
		args = append([]string{InitProgram, "--"}, args...)
	}
	first := outOfMemory
	process := specs.Process{
		OOMScoreAdj: &first,
		Terminal:    c.Terminal, User: c.User, Args: args, Env: c.Env, Cwd: c.Cwd,
		NoNewPrivileges: true,
		Capabilities:    Capabilities(c.User.UID, c.Held),
		// No Rlimits: they are containerd's, in a user namespace none can be
		// raised, and rund sets them itself: core dumps are taken away.
	}
	ids := []specs.LinuxIDMapping{{ContainerID: 0, HostID: c.IDBase, Size: c.IDSize}}
	s := &specs.Spec{
		Version:  "1.0.2", // what runc 1.1 speaks
		Process:  &process,
		Root:     &specs.Root{Path: "rootfs", Readonly: c.ReadOnly},
		Hostname: c.Hostname,
		Mounts:   mounts(c),
		Linux: &specs.Linux{
			UIDMappings: ids,
			GIDMappings: ids,
			Namespaces: []specs.LinuxNamespace{
				{Type: specs.UserNamespace, Path: c.UserNS}, {Type: specs.NetworkNamespace, Path: c.NetNS},
				{Type: specs.MountNamespace}, {Type: specs.PIDNamespace}, {Type: specs.IPCNamespace},
				{Type: specs.UTSNamespace}, {Type: specs.CgroupNamespace},
			},
			Sysctl:        sysctls(c),
			CgroupsPath:   c.CgroupsPath,
			Resources:     resources(c),
			MaskedPaths:   maskedPaths,
			ReadonlyPaths: readonlyPaths,
		},
	}
	switch {
	case c.Unconfined:
	case c.Seccomp != nil:
		s.Linux.Seccomp = c.Seccomp
	default:
		s.Linux.Seccomp = seccomp.DefaultProfile(s) // of the capabilities
	}
	return s, nil
}

// CheckCwd refuses a working directory from which a process could get out.
func CheckCwd(dir string) error {
	if dir == "/proc" || strings.HasPrefix(dir, "/proc/") {
		// A descriptor that the runtime holds open there could lead out.
		return fmt.Errorf("working directory %q lies in /proc: choose another", dir)
	}
	return nil
}

// sysctls: root in a user namespace could otherwise not serve port 80, nor anybody ping,
// without capabilities that allow much more.
func sysctls(c Container) map[string]string {
	out := map[string]string{
		confine.PortStart:           "0",
		"net.ipv4.ping_group_range": fmt.Sprintf("0 %d", c.IDSize-1),
	}
	maps.Copy(out, c.Sysctls)
	return out
}

// Capabilities are those of a process that is to hold them. Those of another user than root are ambient: no file of an image gives any, and
// those of root would be gone once it becomes that user.
func Capabilities(uid uint32, held []string) *specs.LinuxCapabilities {
	if len(held) == 0 {
		return &specs.LinuxCapabilities{}
	}
	if uid != 0 {
		return &specs.LinuxCapabilities{Bounding: held, Permitted: held, Effective: held, Inheritable: held, Ambient: held}
	}
	return &specs.LinuxCapabilities{Bounding: held, Permitted: held, Effective: held}
}

func mounts(c Container) []specs.Mount {
	m := []specs.Mount{
		{Destination: "/proc", Type: "proc", Source: "proc", Options: []string{"nosuid", "noexec", "nodev"}},
		{Destination: "/dev", Type: "tmpfs", Source: "tmpfs", Options: []string{"nosuid", "noexec", "strictatime", "mode=755", "size=65536k"}},
		{Destination: "/dev/pts", Type: "devpts", Source: "devpts", Options: []string{"nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"}},
		{Destination: "/dev/shm", Type: "tmpfs", Source: "shm", Options: []string{"nosuid", "noexec", "nodev", "mode=1777", fmt.Sprintf("size=%d", shmBytes)}},
		{Destination: "/dev/mqueue", Type: "mqueue", Source: "mqueue", Options: []string{"nosuid", "noexec", "nodev"}},
		{Destination: "/sys", Type: "sysfs", Source: "sysfs", Options: []string{"nosuid", "noexec", "nodev", "ro"}},
		{Destination: "/sys/fs/cgroup", Type: "cgroup", Source: "cgroup", Options: []string{"nosuid", "noexec", "nodev", "relatime", "ro"}},
	}
	for _, f := range []struct{ source, target string }{
		{c.Hosts, "/etc/hosts"}, {c.HostnameFile, "/etc/hostname"}, {c.ResolvConf, "/etc/resolv.conf"},
	} {
		if f.source != "" {
			m = append(m, bind(f.source, f.target, true))
		}
	}
	if c.Relay != "" {
		m = append(m, bind(c.Relay, RelayProgram, true))
	}
	if c.Init != "" {
		m = append(m, bind(c.Init, InitProgram, true))
	}
	for _, d := range c.Devices {
		m = append(m, specs.Mount{Destination: d.Target, Type: "bind", Source: d.Source, Options: []string{"bind", "rprivate", "nosuid", "noexec"}})
	}
	for _, u := range c.Mounts {
		if u.Source != "" {
			m = append(m, bind(u.Source, u.Target, u.ReadOnly))
			continue
		}
		mode := u.Mode
		if mode == 0 {
			mode = 0o1777
		}
		opts := []string{"nosuid", "nodev", "noexec", fmt.Sprintf("mode=%o", mode), fmt.Sprintf("size=%d", u.Size)}
		if u.ReadOnly {
			opts = append(opts, "ro")
		}
		m = append(m, specs.Mount{Destination: u.Target, Type: "tmpfs", Source: "tmpfs", Options: opts})
	}
	for _, f := range c.Files {
		d := bind(f.Source, f.Target, true)
		d.Options = append(d.Options, "noexec")
		m = append(m, d)
	}
	if c.Identity != "" { // last: a mount of the user on /run does not hide it
		d := bind(c.Identity, IdentityDir, true)
		d.Options = append(d.Options, "noexec")
		m = append(m, d)
	}
	return m
}

func bind(source, target string, readOnly bool) specs.Mount {
	opts := []string{"bind", "rprivate", "nosuid", "nodev"}
	if readOnly {
		opts = append(opts, "ro")
	}
	return specs.Mount{Destination: target, Type: "bind", Source: source, Options: opts}
}

func resources(c Container) *specs.LinuxResources {
	r := &specs.LinuxResources{Pids: &specs.LinuxPids{Limit: &c.Pids}, CPU: &specs.LinuxCPU{}}
	// Access to devices: the runtime adds the default ones to this refusal.
	r.Devices = []specs.LinuxDeviceCgroup{{Allow: false, Access: "rwm"}}
	for _, d := range c.Devices {
		r.Devices = append(r.Devices, specs.LinuxDeviceCgroup{Allow: true, Type: d.Type, Major: &d.Major, Minor: &d.Minor, Access: d.Access})
	}
	if c.MemoryBytes > 0 {
		r.Memory = &specs.LinuxMemory{Limit: &c.MemoryBytes, Swap: &c.MemoryBytes}
	}
	if c.MemoryLow > 0 {
		if r.Memory == nil {
			r.Memory = &specs.LinuxMemory{}
		}
		r.Memory.Reservation = &c.MemoryLow
	}
	if c.NanoCPUs > 0 {
		quota := max(minQuota, c.NanoCPUs/(nanoPerCPU/cpuPeriod))
		period := uint64(cpuPeriod)
		r.CPU.Quota, r.CPU.Period = &quota, &period
	}
	if c.Shares > 0 {
		shares := min(max(2, uint64(c.Shares)*1024/nanoPerCPU), 1<<18)
		r.CPU.Shares = &shares
	}
	return r
}

// CheckTarget refuses mount targets that would replace what keeps a container
// confined or working.
func CheckTarget(target string) error {
	if !path.IsAbs(target) || path.Clean(target) != target || strings.ContainsRune(target, 0) {
		return fmt.Errorf("mount target %q must be a clean absolute path", target)
	}
	if target == "/" {
		return fmt.Errorf("mount target / would replace the image")
	}
	for _, p := range []string{"/proc", "/sys", "/dev"} {
		if target == p || strings.HasPrefix(target, p+"/") {
			return fmt.Errorf("mount target %q lies in %s, which belongs to the runtime", target, p)
		}
	}
	return nil
}

// MergeEnv puts the service's variables over the image's. What is no variable in
// an image is dropped: the runtime would refuse the container with words that
// help nobody.
func MergeEnv(image, own []string) []string {
	var env []string
	at := map[string]int{}
	for _, e := range image {
		name, _, ok := strings.Cut(e, "=")
		if !ok || name == "" || strings.ContainsRune(e, 0) {
			continue
		}
		at[name] = len(env)
		env = append(env, e)
	}
	if _, ok := at["PATH"]; !ok {
		at["PATH"] = len(env)
		env = append(env, "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin")
	}
	for _, e := range own {
		name, _, _ := strings.Cut(e, "=")
		if i, ok := at[name]; ok {
			env[i] = e
			continue
		}
		at[name] = len(env)
		env = append(env, e)
	}
	return env
}
