package cli

import (
	"strings"
	"testing"

	"github.com/redoubt-cluster/redoubt/scheduler/confine"
	"github.com/redoubt-cluster/redoubt/scheduler/taskpb"
)

func TestHostFlagIsTwo(t *testing.T) {
	socket := ""
	h := hostFlag{socket: &socket}
	for _, s := range []string{"unix:///x/api.sock", "db:192.0.2.7", "db=2001:db8::7", "six:[2001:db8::8]"} {
		if err := h.Set(s); err != nil {
			t.Fatal(err)
		}
	}
	if socket != "unix:///x/api.sock" || len(h.lines) != 3 || h.lines[1].Address != "2001:db8::7" || h.lines[2].Address != "2001:db8::8" {
		t.Errorf("%q %v", socket, h.lines)
	}
	for _, bad := range []string{"", "db", ":1.2.3.4", "db:", "x:host-gateway"} {
		if h.Set(bad) == nil {
			t.Errorf("%q was taken", bad)
		}
	}
}

// TestConfineUpdates: -add takes the place of what has the same name, -rm removes, and
// templates are known where they are new.
func TestConfineUpdates(t *testing.T) {
	c := &taskpb.ContainerSpec{
		CapAdd: []string{"CAP_BPF"}, CapDrop: []string{"CAP_KILL"}, Ulimits: []*taskpb.Ulimit{{Name: "nofile", Soft: 1, Hard: 1}, {Name: "nproc", Soft: 2, Hard: 2}},
		Hosts:   []*taskpb.Host{{Name: "a", Address: "192.0.2.1"}, {Name: "b", Address: "192.0.2.2"}},
		Sysctls: []*taskpb.Sysctl{{Name: "net.core.somaxconn", Value: "1"}}, Dns: &taskpb.DNS{Options: []string{"ndots:1", "rotate"}}, Security: &taskpb.Security{Seccomp: "x"},
		Devices: []*taskpb.Device{{Source: "/dev/fuse", Target: "/dev/fuse", Access: "rw"}}, Groups: []string{"1"},
	}
	f := confineFlags{capAdd: []string{"kill"}, capDrop: []string{"bpf"}, ulimits: ulimitList{{Name: "nofile", Soft: 3, Hard: 4}}, ulimitRm: []string{"nproc"},
		hostRm: []string{"a"}, sysctls: []string{"net.core.somaxconn=2"}, dnsOptions: []string{"ndots:2"}, optsRm: []string{"rotate"}, security: []string{"seccomp=default", "no-new-privileges"},
		deviceRm: []string{"/dev/fuse"}, groupRm: []string{"1"}, groups: []string{"staff"}}
	if err := f.apply(c); err != nil {
		t.Fatal(err)
	}
	if len(c.CapAdd)+len(c.CapDrop)+len(c.Devices) != 0 || c.Security != nil || len(c.Ulimits) != 1 || c.Ulimits[0].Hard != 4 || len(c.Hosts) != 1 || c.Hosts[0].Name != "b" ||
		c.Sysctls[0].Value != "2" || len(c.Dns.Options) != 1 || c.Dns.Options[0] != "ndots:2" || c.Groups[0] != "staff" {
		t.Errorf("%v", c)
	}
	if f := (confineFlags{optsRm: []string{"ndots"}}); f.apply(c) != nil || c.Dns != nil {
		t.Errorf("%v", c.Dns)
	}
	for want, f := range map[string]confineFlags{"added and dropped": {capAdd: []string{"bpf"}, capDrop: []string{"CAP_BPF"}}, "AppArmor": {security: []string{"apparmor=x"}},
		"gains privileges": {security: []string{"no-new-privileges:false"}}, "use seccomp=PROFILE": {security: []string{"seccomp="}}} {
		if err := f.apply(&taskpb.ContainerSpec{}); err == nil || !strings.Contains(err.Error(), want) || exitCode(err) != ExitUsage {
			t.Errorf("%v, want %q", err, want)
		}
	}
	c = &taskpb.ContainerSpec{Env: []string{"A={{x"}}
	if confine.MarkTemplated(c, confine.Templated(c)); c.Templated {
		t.Error("what was literal became a template")
	}
	if confine.MarkTemplated(c, false); !c.Templated {
		t.Error("a new template is none")
	}
	c.Env = nil
	if confine.MarkTemplated(c, true); c.Templated {
		t.Error("there are templates of nothing")
	}
}

func FuzzParseUlimit(f *testing.F) {
	f.Add("nofile=1:2")
	f.Add("nproc=-1")
	f.Fuzz(func(t *testing.T, s string) {
		if u, err := parseUlimit(s); err == nil && (u.Name == "" || u.Soft < -1 || u.Hard < -1) {
			t.Fatalf("%q became %v", s, u)
		}
	})
}

func FuzzParseDevice(f *testing.F) {
	f.Add("/dev/fuse:/dev/x:rwm")
	f.Add("/dev/fuse:r")
	f.Fuzz(func(t *testing.T, s string) {
		d, err := parseDevice(s)
		if err == nil && (confine.CheckDevice(d.Source) != nil || confine.CheckDevice(d.Target) != nil || confine.CheckAccess(d.Access) != nil) {
			t.Fatalf("%q became %v", s, d)
		}
	})
}

func FuzzParseHostLine(f *testing.F) {
	f.Add("db:192.0.2.1")
	f.Add("db=[::1]")
	f.Fuzz(func(t *testing.T, s string) {
		if h, err := parseHostLine(s); err == nil && (h.Name == "" || strings.ContainsAny(h.Name, ":=")) {
			t.Fatalf("%q became %v", s, h)
		}
	})
}
