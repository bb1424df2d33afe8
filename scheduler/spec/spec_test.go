package spec

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"
	"pgregory.net/rapid"

	"github.com/redoubt-cluster/redoubt/internal/ident"
	"github.com/redoubt-cluster/redoubt/scheduler/schedulerpb"
	"github.com/redoubt-cluster/redoubt/scheduler/taskpb"
)

var digest = "sha256:" + strings.Repeat("0f", 32)

// full is a spec that uses every field.
func full() *schedulerpb.ServiceSpec {
	return &schedulerpb.ServiceSpec{
		Name:   "web",
		Labels: map[string]string{"com.example/team": "a b\nc"},
		Mode:   &schedulerpb.ServiceSpec_Replicated{Replicated: &schedulerpb.Replicated{Replicas: 3}},
		Update: &schedulerpb.UpdateConfig{
			Parallelism: 2, DelayNs: 1e9, MonitorNs: 2e9, MaxFailureRatio: 0.5, FailureAction: ActionRollback, Order: StartFirst,
		},
		Rollback:  &schedulerpb.UpdateConfig{},
		Rebalance: &schedulerpb.RebalanceConfig{Automatic: true, PauseNs: 1e9},
		Task: &taskpb.TaskSpec{
			Container: &taskpb.ContainerSpec{
				Image: "registry.example:5000/team/app:1.2", Digest: digest,
				Command: []string{"/bin/app"}, Args: []string{"--listen", ":80", ""},
				Env:     []string{"A=", "B_2=x=y", "PATH=/bin"},
				Workdir: "/", User: "app:1000", Hostname: "web-1", Labels: map[string]string{"x": ""},
				Mounts: []*taskpb.Mount{
					{Type: taskpb.Mount_TYPE_BIND, Source: "/srv/data", Target: "/data", ReadOnly: true},
					{Type: taskpb.Mount_TYPE_TMPFS, Target: "/tmp", TmpfsSize: 1 << 20, TmpfsMode: 0o1777},
				},
				ReadOnly: true, StopSignal: "int", StopGraceNs: 3e9, Tty: true,
				Healthcheck: &taskpb.Healthcheck{Test: []string{"CMD-SHELL", "curl -f localhost || exit 1"}, IntervalNs: 1e9, TimeoutNs: 2e9,
					StartPeriodNs: 60e9, StartIntervalNs: 1e9, Retries: 3},
				Init: true, Isolation: taskpb.Isolation_ISOLATION_USERNS, Hosts: []*taskpb.Host{{Name: "db", Address: "192.0.2.7"}},
				Dns:     &taskpb.DNS{Servers: []string{"192.0.2.53"}, Search: []string{"corp.example"}, Options: []string{"ndots:2"}},
				Ulimits: []*taskpb.Ulimit{{Name: "nofile", Soft: 64, Hard: 128}}, Sysctls: []*taskpb.Sysctl{{Name: "net.ipv4.tcp_keepalive_time", Value: "60"}},
				CapAdd: []string{"CAP_NET_ADMIN"}, CapDrop: []string{"CAP_CHOWN"}, Devices: []*taskpb.Device{{Source: "/dev/fuse", Target: "/dev/fuse", Access: "rw"}},
				Security: &taskpb.Security{Seccomp: "tight"}, Groups: []string{"staff"},
			},
			Reservations: &taskpb.Resources{NanoCpus: 1e8, MemoryBytes: 32 << 20},
			Preferences:  []string{" spread = node.labels.zone", "spread=node.role"}, Strategy: BinPack, Priority: 7,
			Limits:      &taskpb.Resources{NanoCpus: 2e8, MemoryBytes: 64 << 20, Pids: 100},
			Restart:     &taskpb.RestartPolicy{Condition: taskpb.RestartPolicy_CONDITION_ON_FAILURE, DelayNs: 1, MaxAttempts: 3, WindowNs: 60e9},
			Constraints: []string{" node.role == worker ", "node.labels.disk!=hdd"},
			Ports: []*taskpb.Port{
				{Published: 8080, Target: 80, Mode: taskpb.Port_MODE_HOST},
				{Published: 8080, Target: 80, Mode: taskpb.Port_MODE_HOST, Protocol: taskpb.Port_PROTOCOL_UDP, HostIp: "fd00::1"},
				{Published: 8443, Target: 443, PreferLocal: true},
				{Target: 53, Protocol: taskpb.Port_PROTOCOL_UDP},
			},
			Force: 1, Platforms: []string{"linux/amd64"},
		},
		IngressConstraints: []string{" node.labels.edge == true", "node.availability!=drain"},
	}
}

func ingress(published uint32) *taskpb.Port {
	return &taskpb.Port{Published: published, Target: 1, Protocol: taskpb.Port_PROTOCOL_TCP, Mode: taskpb.Port_MODE_INGRESS}
}

func TestNormalizeGivesOneForm(t *testing.T) {
	in := full()
	n := Normalize(in)
	if !proto.Equal(in, full()) {
		t.Fatal("Normalize changed what it was given")
	}
	if err := Validate(n); err != nil {
		t.Fatal(err)
	}
	if !proto.Equal(n, Normalize(n)) {
		t.Error("Normalize is not idempotent")
	}
	if got := n.Task.Container.StopSignal; got != "SIGINT" {
		t.Errorf("stop signal is %q", got)
	}
	if got := fmt.Sprint(n.Task.Constraints); got != "[node.role==worker node.labels.disk!=hdd]" {
		t.Errorf("constraints are %s", got)
	}
	least := Normalize(&schedulerpb.ServiceSpec{Name: "a", Task: &taskpb.TaskSpec{Container: &taskpb.ContainerSpec{Image: "busybox"}}})
	if err := Validate(least); err != nil {
		t.Fatal(err)
	}
	if r := least.Task.Restart; r.Condition != taskpb.RestartPolicy_CONDITION_ANY || r.DelayNs != int64(DefaultRestartDelay) ||
		least.GetReplicated().GetReplicas() != 1 || least.Task.Container.StopGraceNs != int64(DefaultStopGrace) {
		t.Errorf("defaults are %v", least)
	}
}

func TestValidateRefuses(t *testing.T) {
	type s = schedulerpb.ServiceSpec
	mount := func(m *taskpb.Mount) func(*s) {
		return func(s *s) { s.Task.Container.Mounts = append(s.Task.Container.Mounts, m) }
	}
	port := func(p *taskpb.Port) func(*s) {
		if p.Protocol == taskpb.Port_PROTOCOL_UNSPECIFIED {
			p.Protocol = taskpb.Port_PROTOCOL_TCP
		}
		return func(s *s) { s.Task.Ports = append(s.Task.Ports, p) }
	}
	env := func(e ...string) func(*s) { return func(s *s) { s.Task.Container.Env = e } }
	image := func(i string) func(*s) { return func(s *s) { s.Task.Container.Image = i } }
	// volumes are mounts of one that is called db, without what does not go with them.
	volumes := func(uses ...*taskpb.VolumeUse) func(*s) {
		return func(s *s) {
			s.Task.Container.Isolation, s.Update, s.Rollback = taskpb.Isolation_ISOLATION_UNSPECIFIED, nil, nil
			for i, u := range uses {
				u.Name = "db"
				mount(&taskpb.Mount{Type: taskpb.Mount_TYPE_VOLUME, Target: fmt.Sprintf("/x%d", i), Volume: u})(s)
			}
		}
	}
	many := func(n int) []string { return strings.Split(strings.Repeat("x,", n), ",") }
	for want, change := range map[string]func(*s){
		"name is empty":                 func(s *s) { s.Name = "" },
		"at most 63":                    func(s *s) { s.Name = strings.Repeat("a", 64) },
		`name "../etc"`:                 func(s *s) { s.Name = "../etc" },
		"form of an id":                 func(s *s) { s.Name = ident.New() },
		"replicas is 100001":            func(s *s) { s.GetReplicated().Replicas = MaxReplicas + 1 },
		"replicas is 18446744073709551": func(s *s) { s.GetReplicated().Replicas = ^uint64(0) },
		"no mode":                       func(s *s) { s.Mode = nil },
		"no container":                  func(s *s) { s.Task.Container = nil },
		"image is empty":                image(""),
		"is not a reference":            image("Registry/UPPER:::x"),
		"image reference is":            image(strings.Repeat("a", 600)),
		"only sha256":                   image("app@sha512:" + strings.Repeat("00", 64)),
		"another digest":                image("app@sha256:" + strings.Repeat("00", 32)),
		"image digest":                  func(s *s) { s.Task.Container.Digest = "md5:00" },
		"service label \"\"":            func(s *s) { s.Labels = map[string]string{"": ""} },
		"control character":             func(s *s) { s.Labels = map[string]string{"a": "\x1b[0m"} },
		"container label a is": func(s *s) {
			s.Task.Container.Labels = map[string]string{"a": strings.Repeat("x", ident.MaxLabelValue+1)}
		},
		"has no value":                  env("A=1", "B"),
		"environment variable 2: the":   env("A=1", "=x"),
		"given twice":                   env("A=1", "A=2"),
		"A has a NUL":                   env("A=\x00"),
		"A is 32769 bytes":              env("A=" + strings.Repeat("x", MaxEnvValue+1)),
		"environment variables: at":     func(s *s) { s.Task.Container.Env = many(MaxEnv) },
		"words: at most":                func(s *s) { s.Task.Container.Args = many(MaxArgs) },
		"argument has a NUL":            func(s *s) { s.Task.Container.Args = []string{"\x00"} },
		"an argument is":                func(s *s) { s.Task.Container.Args = []string{strings.Repeat("x", MaxArg+1)} },
		"command is empty":              func(s *s) { s.Task.Container.Command = []string{""} },
		"bytes long in all":             func(s *s) { s.Task.Container.Env = []string{"A=" + strings.Repeat("x", MaxSpecBytes)} },
		"no identity and says how":      func(s *s) { s.Task.Identity = &taskpb.Identity{None: true, Files: "/id"} },
		"identity life is 1s":           func(s *s) { s.Task.Identity = &taskpb.Identity{LifeNs: 1e9} },
		"there are none: name":          func(s *s) { s.Task.Identity = &taskpb.Identity{Signal: "SIGHUP"} },
		"identity: mount target \"id\"": func(s *s) { s.Task.Identity = &taskpb.Identity{Files: "id"} },
		"identity: mount target /sys":   func(s *s) { s.Task.Identity = &taskpb.Identity{Files: "/sys/id"} },
		"/run/redoubt/spiffe belongs":   func(s *s) { s.Task.Identity = &taskpb.Identity{Files: "/run/redoubt"} },
		"/run/secrets belongs":          func(s *s) { s.Task.Identity = &taskpb.Identity{Files: "/run/secrets/id"} },
		"\"SIGNO\" is unknown":          func(s *s) { s.Task.Identity = &taskpb.Identity{Files: "/id", Signal: "SIGNO"} },
		"identity at /certs are in": func(s *s) {
			s.Task.Container.Secrets = []*taskpb.FileUse{{Source: "key", Target: "/certs/key", OnUpdate: taskpb.OnUpdate_ON_UPDATE_NONE}}
			s.Task.Identity = &taskpb.Identity{Files: "/certs"}
		},
		"/data is where the files of the identity go": func(s *s) {
			s.Task.Container.Mounts = []*taskpb.Mount{{Type: taskpb.Mount_TYPE_TMPFS, Target: "/data"}}
			s.Task.Identity = &taskpb.Identity{Files: "/data"}
		},
		"workdir":                         func(s *s) { s.Task.Container.Workdir = "tmp" },
		`user "a b"`:                      func(s *s) { s.Task.Container.User = "a b" },
		"hostname: node name":             func(s *s) { s.Task.Container.Hostname = "-x" },
		"hostname is 64":                  func(s *s) { s.Task.Container.Hostname = strings.Repeat("a", 64) },
		"stop signal \"SIGNO\"":           func(s *s) { s.Task.Container.StopSignal = "SIGNO" },
		"stop signal \"0\"":               func(s *s) { s.Task.Container.StopSignal = "0" },
		"stop grace period is -1ns":       func(s *s) { s.Task.Container.StopGraceNs = -1 },
		"mount target is empty":           mount(&taskpb.Mount{Type: taskpb.Mount_TYPE_TMPFS}),
		"used twice":                      mount(&taskpb.Mount{Type: taskpb.Mount_TYPE_TMPFS, Target: "/data"}),
		"without //":                      mount(&taskpb.Mount{Type: taskpb.Mount_TYPE_BIND, Source: "/srv/../etc", Target: "/x"}),
		`"srv" is not absolute`:           mount(&taskpb.Mount{Type: taskpb.Mount_TYPE_BIND, Source: "srv", Target: "/x"}),
		"source is the root":              mount(&taskpb.Mount{Type: taskpb.Mount_TYPE_BIND, Source: "/", Target: "/x"}),
		"target is the root":              mount(&taskpb.Mount{Type: taskpb.Mount_TYPE_BIND, Source: "/x", Target: "/"}),
		"which the kernel fills":          mount(&taskpb.Mount{Type: taskpb.Mount_TYPE_TMPFS, Target: "/proc/sys"}),
		"filled by the node":              mount(&taskpb.Mount{Type: taskpb.Mount_TYPE_TMPFS, Target: "/etc/hosts"}),
		"type is unknown":                 mount(&taskpb.Mount{Target: "/x"}),
		"tmpfs has no source":             mount(&taskpb.Mount{Type: taskpb.Mount_TYPE_TMPFS, Target: "/x", Source: "/y"}),
		"tmpfs size":                      mount(&taskpb.Mount{Type: taskpb.Mount_TYPE_TMPFS, Target: "/x", TmpfsSize: -1}),
		"tmpfs mode":                      mount(&taskpb.Mount{Type: taskpb.Mount_TYPE_TMPFS, Target: "/x", TmpfsMode: 0o7777}),
		"a volume has a name and no path": mount(&taskpb.Mount{Type: taskpb.Mount_TYPE_VOLUME, Target: "/x", Source: "db", Volume: &taskpb.VolumeUse{Name: "db"}}),
		"the volume has no name":          mount(&taskpb.Mount{Type: taskpb.Mount_TYPE_VOLUME, Target: "/x"}),
		"a volume is for type=volume":     mount(&taskpb.Mount{Type: taskpb.Mount_TYPE_BIND, Source: "/x", Target: "/x", Volume: &taskpb.VolumeUse{Name: "db"}}),
		"are for type=bind":               mount(&taskpb.Mount{Type: taskpb.Mount_TYPE_TMPFS, Target: "/x", Bind: &taskpb.BindOptions{}}),
		"rprivate alone":                  mount(&taskpb.Mount{Type: taskpb.Mount_TYPE_BIND, Source: "/x", Target: "/x", Bind: &taskpb.BindOptions{Propagation: "rshared"}}),
		"no volume driver":                mount(&taskpb.Mount{Type: taskpb.Mount_TYPE_VOLUME, Target: "/x", Volume: &taskpb.VolumeUse{Name: "db", Driver: "nfs"}}),
		"no option \"encrypted\"":         mount(&taskpb.Mount{Type: taskpb.Mount_TYPE_VOLUME, Target: "/x", Volume: &taskpb.VolumeUse{Name: "db", Options: map[string]string{"encrypted": "true"}}}),
		"a path below the volume":         mount(&taskpb.Mount{Type: taskpb.Mount_TYPE_VOLUME, Target: "/x", Volume: &taskpb.VolumeUse{Name: "db", Subpath: "../other"}}),
		"that of the service":             volumes(&taskpb.VolumeUse{Labels: map[string]string{stackLabel: "theirs"}}),
		"all containers of a node share": func(s *s) {
			s.Task.Container.Isolation = taskpb.Isolation_ISOLATION_USERNS
			mount(&taskpb.Mount{Type: taskpb.Mount_TYPE_VOLUME, Target: "/x", Volume: &taskpb.VolumeUse{Name: "db"}})(s)
		},
		"use order stop-first": func(s *s) {
			volumes(&taskpb.VolumeUse{})(s)
			s.Update = &schedulerpb.UpdateConfig{Order: schedulerpb.UpdateConfig_ORDER_START_FIRST}
		},
		"is named twice, with other": volumes(&taskpb.VolumeUse{}, &taskpb.VolumeUse{Driver: "local"}),
		"are for type=tmpfs":         mount(&taskpb.Mount{Type: taskpb.Mount_TYPE_BIND, Source: "/x", Target: "/x", TmpfsMode: 1}),
		"published port 65536":       port(&taskpb.Port{Published: 65536, Target: 1, Mode: taskpb.Port_MODE_HOST}),
		"target port 0":              port(&taskpb.Port{Published: 1, Mode: taskpb.Port_MODE_HOST}),
		"not chosen for you":         port(&taskpb.Port{Target: 2, Mode: taskpb.Port_MODE_HOST}),
		"what managers listen on":    port(ingress(2377)),
		"what networks are carried":  port(&taskpb.Port{Published: 4789, Target: 1, Mode: taskpb.Port_MODE_INGRESS, Protocol: taskpb.Port_PROTOCOL_UDP}),
		"what the nodes' tunnels":    port(&taskpb.Port{Published: 7946, Target: 1, Mode: taskpb.Port_MODE_INGRESS, Protocol: taskpb.Port_PROTOCOL_UDP}),
		"2377/tcp is what managers":  port(&taskpb.Port{Published: 2377, Target: 1, Mode: taskpb.Port_MODE_HOST}),
		"leave prefer-local out":     port(&taskpb.Port{Published: 1, Target: 1, Mode: taskpb.Port_MODE_HOST, PreferLocal: true}),
		"mode host has no PROXY":     port(&taskpb.Port{Published: 1, Target: 1, Mode: taskpb.Port_MODE_HOST, ProxyProtocol: true}),
		"66 ports of mode ingress": func(s *s) {
			for i := range uint32(64) {
				s.Task.Ports = append(s.Task.Ports, ingress(100+i))
			}
		},
		"dnsrr does not go with": func(s *s) {
			s.Task.Networks = []*taskpb.NetworkUse{{Network: "front"}}
			s.EndpointMode = schedulerpb.EndpointMode_ENDPOINT_MODE_DNSRR
		},
		"ingress constraints are for":   func(s *s) { s.Task.Ports = nil },
		"the PROXY protocol is for TCP": port(&taskpb.Port{Published: 1, Target: 1, Mode: taskpb.Port_MODE_INGRESS, Protocol: taskpb.Port_PROTOCOL_UDP, ProxyProtocol: true}),
		"9 ports with the PROXY protocol": func(s *s) {
			for i := range uint32(9) {
				s.Task.Ports = append(s.Task.Ports, &taskpb.Port{Published: 100 + i, Target: 1, Mode: taskpb.Port_MODE_INGRESS, Protocol: taskpb.Port_PROTOCOL_TCP, ProxyProtocol: true})
			}
		},
		"use node.id, node.role, node.availability or node.labels.KEY": func(s *s) {
			s.IngressConstraints = []string{"node.hostname==edge"}
		},
		"active, pause or drain": func(s *s) {
			s.IngressConstraints = []string{"node.availability!=drained"}
		},
		"mode is unknown":               port(&taskpb.Port{Published: 1, Target: 1, Mode: 9}),
		"protocol is unknown":           port(&taskpb.Port{Published: 1, Target: 1, Mode: taskpb.Port_MODE_HOST, Protocol: 9}),
		"8080/tcp is published twice":   port(&taskpb.Port{Published: 8080, Target: 1, Mode: taskpb.Port_MODE_HOST, HostIp: "10.0.0.1"}),
		"host address \"010.0.0.1\"":    port(&taskpb.Port{Published: 1, Target: 1, Mode: taskpb.Port_MODE_HOST, HostIp: "010.0.0.1"}),
		"cannot be listened on":         port(&taskpb.Port{Published: 1, Target: 1, Mode: taskpb.Port_MODE_HOST, HostIp: "0.0.0.0"}),
		"capability \"ALL\" is unknown": func(s *s) { s.Task.Container.CapAdd = []string{"ALL"} },
		"hostname: its template becom": func(s *s) {
			s.Task.Container.Templated, s.Task.Container.Hostname = true, "{{.Service.Name}}"+strings.Repeat("x", 63)
		},
		`no entry for key "tier"`: func(s *s) {
			s.Task.Container.Templated, s.Task.Container.Hostname = true, "{{.Service.Labels.tier}}"
		},
		`node name "_web"`: func(s *s) { s.Task.Container.Templated, s.Task.Container.Hostname = true, "_{{.Service.Name}}" },
		"without //, . and .. and": func(s *s) {
			s.Task.Container.Templated, s.Task.Container.Mounts[0].Source = true, "/srv/{{.Service.Name}}/../x"
		},
		"reserved CPU is -1":          func(s *s) { s.Task.Reservations.NanoCpus = -1 },
		"memory limit is 70368744177": func(s *s) { s.Task.Limits.MemoryBytes = MaxMemoryBytes + 1 },
		"use at least 6291456":        func(s *s) { s.Task.Limits.MemoryBytes, s.Task.Reservations = 1, nil },
		"CPU limit is 1e-09 cores":    func(s *s) { s.Task.Limits.NanoCpus, s.Task.Reservations = 1, nil },
		"memory exceeds":              func(s *s) { s.Task.Reservations.MemoryBytes = 65 << 20 },
		"CPU exceeds":                 func(s *s) { s.Task.Reservations.NanoCpus = 3e8 },
		"pids cannot be reserved":     func(s *s) { s.Task.Reservations.Pids = 1 },
		"health interval is 1ns":      func(s *s) { s.Task.Container.Healthcheck.IntervalNs = 1 },
		"health timeout is 2h0m0s":    func(s *s) { s.Task.Container.Healthcheck.TimeoutNs = int64(2 * time.Hour) },
		"health start period is -1ns": func(s *s) { s.Task.Container.Healthcheck.StartPeriodNs = -1 },
		"health retries is 1001":      func(s *s) { s.Task.Container.Healthcheck.Retries = 1001 },
		"begin with CMD":              func(s *s) { s.Task.Container.Healthcheck.Test = []string{"curl"} },
		"healthcheck has no command":  func(s *s) { s.Task.Container.Healthcheck.Test = []string{"CMD", ""} },
		"no single text":              func(s *s) { s.Task.Container.Healthcheck.Test = []string{"CMD-SHELL", "a", "b"} },
		"switched off and has an":     func(s *s) { s.Task.Container.Healthcheck.Test = []string{"NONE"} },
		"switched off and has a":      func(s *s) { s.Task.Container.Healthcheck = &taskpb.Healthcheck{Test: []string{"NONE", "x"}} },
		"a word of the healthcheck":   func(s *s) { s.Task.Container.Healthcheck.Test = []string{"CMD", "\x00"} },
		"pids limit is -1":            func(s *s) { s.Task.Limits.Pids = -1 },
		"restart condition":           func(s *s) { s.Task.Restart.Condition = 9 },
		"restart delay":               func(s *s) { s.Task.Restart.DelayNs = -1 },
		"restart attempts":            func(s *s) { s.Task.Restart.MaxAttempts = MaxRestartAttempts + 1 },
		"restart window":              func(s *s) { s.Task.Restart.WindowNs = int64(MaxRestartWindow) + 1 },
		"key is unknown":              func(s *s) { s.Task.Constraints = []string{"node.colour==red"} },
		"constraints: at most":        func(s *s) { s.Task.Constraints = many(MaxConstraints) },
		"platform \"linux\"":          func(s *s) { s.Task.Platforms = []string{"linux"} },
		"does not know":               func(s *s) { unknown(s.Task.Ports[0]) },
	} {
		spec := Normalize(full())
		change(spec)
		err := Validate(spec)
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("error %v, want one with %q", err, want)
		} else if msg := err.Error(); strings.Contains(msg, "\n") || len(msg) > 400 {
			t.Errorf("not one short line: %q", msg)
		}
	}
	if err := Validate(nil); err == nil {
		t.Error("nothing is valid")
	}
}

func unknown(m proto.Message) {
	m.ProtoReflect().SetUnknown(protowire.AppendTag(nil, 1000, protowire.VarintType))
}

func TestEnvValuesStayOutOfErrors(t *testing.T) {
	for _, e := range []string{"A=canary\x00", "1=canary", "A=canary" + strings.Repeat("x", MaxEnvValue), "canary"} {
		s := Normalize(full())
		s.Task.Container.Env = []string{e}
		if err := Validate(s); err == nil || strings.Contains(err.Error(), "canary") {
			t.Errorf("error %v", err)
		}
	}
}

func TestParseConstraint(t *testing.T) {
	for text, want := range map[string]string{
		"node.labels.a.b/c-d == x y": "node.labels.a.b/c-d==x y",
		"node.hostname!=host-1":      "node.hostname!=host-1",
		"node.platform.os==linux":    "node.platform.os==linux",
		"node.labels.a==!=":          "node.labels.a==!=",
	} {
		c, err := ParseConstraint(text)
		if err != nil || c.String() != want {
			t.Errorf("%q: %q, %v; want %q", text, c, err, want)
		}
	}
	for _, text := range []string{
		"", "=", "==", "node.id", "node.id=x", "node.id==x", "node.role==boss", "node.labels.==x", "node.labels.a==",
		"node.labels.a===x", "node.labels.a=!x", "labels.a==b", "node.labels.-==x", "node.labels.a==\x00", "node.labels.a<b",
		"node.labels.a==" + strings.Repeat("x", MaxConstraint), "node.labels.a==\xff",
	} {
		if c, err := ParseConstraint(text); err == nil {
			t.Errorf("%q was read as %q", text, c)
		}
	}
}

func FuzzParseConstraint(f *testing.F) {
	for _, s := range []string{"node.role==worker", "node.labels.disk != hdd", "node.id==", "!==", "node.labels.a===b"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, text string) {
		c, err := ParseConstraint(text)
		if err != nil {
			return
		}
		again, err := ParseConstraint(c.String())
		if err != nil || again != c {
			t.Fatalf("%q gives %q, which gives %q, %v", text, c, again, err)
		}
	})
}

// FuzzValidate: whatever bytes a client sends, the answer is an error or a spec
// that stays valid and the same through another round.
func FuzzValidate(f *testing.F) {
	seed, err := proto.Marshal(full())
	if err != nil {
		f.Fatal(err)
	}
	f.Add(seed)
	f.Add([]byte("\n\x03web"))
	f.Fuzz(func(t *testing.T, data []byte) {
		s := &schedulerpb.ServiceSpec{}
		if proto.Unmarshal(data, s) != nil {
			return
		}
		n := Normalize(s)
		if Validate(n) != nil {
			return
		}
		if again := Normalize(n); !proto.Equal(n, again) || Validate(again) != nil {
			t.Fatalf("not stable: %v", n)
		}
	})
}

func TestPortsCollideIsSymmetric(t *testing.T) {
	gen := rapid.Custom(func(t *rapid.T) *taskpb.Port {
		return &taskpb.Port{
			Published: rapid.Uint32Range(1, 2).Draw(t, "port"),
			Protocol:  taskpb.Port_Protocol(rapid.IntRange(1, 2).Draw(t, "protocol")),
			HostIp:    rapid.SampledFrom([]string{"", "10.0.0.1", "10.0.0.2"}).Draw(t, "ip"),
		}
	})
	rapid.Check(t, func(t *rapid.T) {
		a, b := gen.Draw(t, "a"), gen.Draw(t, "b")
		if PortsCollide(a, b) != PortsCollide(b, a) || !PortsCollide(a, a) {
			t.Fatalf("%v and %v", a, b)
		}
	})
}
