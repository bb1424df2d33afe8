package ocispec

import (
	"slices"
	"strings"
	"testing"

	specs "github.com/opencontainers/runtime-spec/specs-go"

	"github.com/redoubt-cluster/redoubt/scheduler/confine"
)

func minimal() Container {
	return Container{Args: []string{"/x"}, Cwd: "/", IDBase: 1 << 30, IDSize: 65536, UserNS: "/u", NetNS: "/n", CgroupsPath: "/p/t", Pids: 10, Held: confine.DefaultCapabilities}
}

func TestNothingIsShared(t *testing.T) {
	s, err := Build(minimal())
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []specs.LinuxNamespaceType{specs.UserNamespace, specs.NetworkNamespace, specs.MountNamespace,
		specs.PIDNamespace, specs.IPCNamespace, specs.UTSNamespace, specs.CgroupNamespace} {
		if !slices.ContainsFunc(s.Linux.Namespaces, func(n specs.LinuxNamespace) bool { return n.Type == want }) {
			t.Errorf("no %s namespace", want)
		}
	}
	if !s.Process.NoNewPrivileges || s.Linux.Seccomp == nil || s.Linux.Seccomp.DefaultAction != specs.ActErrno {
		t.Error("no_new_privs or seccomp is missing")
	}
	if a := s.Process.OOMScoreAdj; a == nil || *a <= 0 {
		t.Error("the node's own processes would end before the container's")
	}
	for _, m := range s.Mounts {
		if !slices.Contains(m.Options, "nosuid") || m.Destination != "/dev" && m.Destination != "/dev/pts" && !slices.Contains(m.Options, "nodev") {
			t.Errorf("%s: %v", m.Destination, m.Options)
		}
	}
}

// TestSeccomp: what root in a user namespace could use against the kernel.
func TestSeccomp(t *testing.T) {
	s, err := Build(minimal())
	if err != nil {
		t.Fatal(err)
	}
	for _, call := range []string{"bpf", "keyctl", "add_key", "mount", "umount2", "setns", "unshare", "perf_event_open", "io_uring_setup",
		"userfaultfd", "kexec_load", "init_module", "open_by_handle_at", "pivot_root", "reboot"} {
		for _, rule := range s.Linux.Seccomp.Syscalls {
			if rule.Action == specs.ActAllow && len(rule.Args) == 0 && slices.Contains(rule.Names, call) {
				t.Errorf("%s is allowed", call)
			}
		}
	}
}

func TestRefused(t *testing.T) {
	for name, c := range map[string]func(*Container){
		"proc":    func(c *Container) { c.Cwd = "/proc/self/fd/7" },
		"command": func(c *Container) { c.Args = nil },
		"uid":     func(c *Container) { c.User.UID = 65536 },
		"gid":     func(c *Container) { c.User.GID = 1 << 31 },
	} {
		in := minimal()
		c(&in)
		if _, err := Build(in); err == nil {
			t.Errorf("%s was accepted", name)
		}
	}
	for _, target := range []string{"", "x", "/", "/proc", "/proc/self", "/sys/fs", "/dev/shm", "/a/../b", "/a//b", "/a\x00"} {
		if CheckTarget(target) == nil {
			t.Errorf("mount target %q was accepted", target)
		}
	}
	if err := CheckTarget("/data"); err != nil {
		t.Error(err)
	}
}

func TestResources(t *testing.T) {
	in := minimal()
	in.MemoryBytes, in.NanoCPUs, in.Shares = 64<<20, 1_500_000_000, 500_000_000
	s, err := Build(in)
	if err != nil {
		t.Fatal(err)
	}
	r := s.Linux.Resources
	if *r.Memory.Limit != 64<<20 || *r.Memory.Swap != 64<<20 || *r.CPU.Quota != 150_000 || *r.CPU.Shares != 512 || *r.Pids.Limit != 10 {
		t.Errorf("%+v %+v %+v", r.Memory, r.CPU, r.Pids)
	}
}

func TestMergeEnv(t *testing.T) {
	got := MergeEnv([]string{"A=1", "B=2"}, []string{"B=3", "C=4", "C=5"})
	if s := strings.Join(got, " "); s != "A=1 B=3 PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin C=5" {
		t.Error(s)
	}
	if got := MergeEnv([]string{"", "=", "=x", "A", "B=\x00", "PATH=/x"}, nil); len(got) != 1 {
		t.Error(got)
	}
	if got := MergeEnv([]string{"PATH=/x"}, nil); len(got) != 1 {
		t.Error(got)
	}
}
