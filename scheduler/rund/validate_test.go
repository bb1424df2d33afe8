package rund

import (
	"strings"
	"testing"

	"google.golang.org/protobuf/proto"

	"github.com/redoubt-cluster/redoubt/internal/config"
	"github.com/redoubt-cluster/redoubt/scheduler/rund/rundpb"
	"github.com/redoubt-cluster/redoubt/scheduler/taskpb"
)

func TestCheckTask(t *testing.T) {
	good := &rundpb.TaskDesired{Spec: &taskpb.TaskSpec{Container: &taskpb.ContainerSpec{Image: "x", Digest: "sha256:x"}}}
	if err := checkTask(good); err != nil {
		t.Fatal(err)
	}
	if checkTask(&rundpb.TaskDesired{}) == nil {
		t.Error("a task without a container was accepted")
	}
	tmpfs := func(target string) *taskpb.Mount {
		return &taskpb.Mount{Type: taskpb.Mount_TYPE_TMPFS, Target: target}
	}
	for want, change := range map[string]func(*rundpb.TaskDesired, *taskpb.ContainerSpec){
		"without a digest":     func(_ *rundpb.TaskDesired, c *taskpb.ContainerSpec) { c.Digest = "" },
		"another digest than":  func(_ *rundpb.TaskDesired, c *taskpb.ContainerSpec) { c.Image = "x@sha256:y" },
		"entry 2 is not NAME":  func(_ *rundpb.TaskDesired, c *taskpb.ContainerSpec) { c.Env = []string{"A=b", "topsecret"} },
		"must not contain NUL": func(_ *rundpb.TaskDesired, c *taskpb.ContainerSpec) { c.Args = []string{"a\x00"} },
		"together exceed":      func(_ *rundpb.TaskDesired, c *taskpb.ContainerSpec) { c.Args = make([]string, maxArgs+1) },
		"workdir":              func(_ *rundpb.TaskDesired, c *taskpb.ContainerSpec) { c.Workdir = "x" },
		"hostname":             func(_ *rundpb.TaskDesired, c *taskpb.ContainerSpec) { c.Hostname = "a\nb" },
		"is unknown":           func(_ *rundpb.TaskDesired, c *taskpb.ContainerSpec) { c.StopSignal = "SIGNOPE" },
		"between 1 and 64":     func(_ *rundpb.TaskDesired, c *taskpb.ContainerSpec) { c.StopSignal = "65" },
		"stop grace":           func(_ *rundpb.TaskDesired, c *taskpb.ContainerSpec) { c.StopGraceNs = -1 },
		"two mounts": func(_ *rundpb.TaskDesired, c *taskpb.ContainerSpec) {
			c.Mounts = []*taskpb.Mount{tmpfs("/a"), tmpfs("/a")}
		},
		"belongs to the runtime": func(_ *rundpb.TaskDesired, c *taskpb.ContainerSpec) { c.Mounts = []*taskpb.Mount{tmpfs("/proc/x")} },
		"unknown type":           func(_ *rundpb.TaskDesired, c *taskpb.ContainerSpec) { c.Mounts = []*taskpb.Mount{{Target: "/a"}} },
		"below the least": func(d *rundpb.TaskDesired, _ *taskpb.ContainerSpec) {
			d.Spec.Limits = &taskpb.Resources{MemoryBytes: 1}
		},
		"negative": func(d *rundpb.TaskDesired, _ *taskpb.ContainerSpec) {
			d.Spec.Reservations = &taskpb.Resources{NanoCpus: -1}
		},
		"CIDR": func(d *rundpb.TaskDesired, _ *taskpb.ContainerSpec) {
			d.Endpoint = &rundpb.Endpoint{Address: "10.0.0.1"}
		},
		"not an address": func(d *rundpb.TaskDesired, _ *taskpb.ContainerSpec) {
			d.Endpoint = &rundpb.Endpoint{Dns: []string{"x\ny"}}
		},
	} {
		d := proto.CloneOf(good)
		change(d, d.Spec.Container)
		err := checkTask(d)
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("got %v, want %q", err, want)
		}
		if err != nil && strings.Contains(err.Error(), "topsecret") {
			t.Error("an environment value is in the error")
		}
	}
}

func FuzzParseSignal(f *testing.F) {
	for _, s := range []string{"", "TERM", "SIGTERM", "sigusr1", "9", "0", "-1", "RTMIN+3", "SIGRTMIN+31"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		if sig, err := parseSignal(s); err == nil && s != "" && (sig < 1 || sig > 64) {
			t.Fatalf("%q is signal %d", s, sig)
		}
	})
}

func TestConfig(t *testing.T) {
	c := Defaults()
	if err := c.Validate(); err != nil {
		t.Fatal(err)
	}
	const text = `
rund:
  containerd: {socket: /x/c.sock}
  cgroup_parent: /lab/a
  userns: {base: 100000, size: 65536}
  registries:
    registry.lab:5000: {ca_file: /etc/ca.pem}
  bind_mounts:
    - {path: /srv, read_only: true}
  limits: {pids: 64}
`
	if err := config.Decode([]byte(text), map[string]any{"rund": &c}); err != nil {
		t.Fatal(err)
	}
	if err := c.Validate(); err != nil {
		t.Fatal(err)
	}
	if c.CgroupParent != "/lab/a" || c.Limits.Pids != 64 || c.Limits.LogBytes != Defaults().Limits.LogBytes || !c.BindMounts[0].ReadOnly {
		t.Errorf("%+v", c)
	}
	for want, change := range map[string]func(*Config){
		"socket":      func(c *Config) { c.Containerd.Socket = "relative" },
		"cgroup":      func(c *Config) { c.CgroupParent = "/" },
		"userns":      func(c *Config) { c.UserNS.Base = 0 },
		"registries":  func(c *Config) { c.Registries["http://x"] = c.Registries["registry.lab:5000"] },
		"bind_mounts": func(c *Config) { c.BindMounts = []BindMount{{Path: "/a/../b"}} },
		"limits.pids": func(c *Config) { c.Limits.Pids = 0 },
		"runtime":     func(c *Config) { c.Containerd.Runtime = "runc" },
	} {
		bad := Defaults()
		bad.Registries = map[string]imageRegistry{"registry.lab:5000": {CAFile: "/etc/ca.pem"}}
		change(&bad)
		if err := bad.Validate(); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("got %v, want %q", err, want)
		}
	}
}
