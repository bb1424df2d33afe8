package confine

import (
	"slices"
	"strings"
	"testing"

	"google.golang.org/protobuf/proto"

	"github.com/redoubt-cluster/redoubt/scheduler/taskpb"
)

// all has each of what a container may be given.
func all() *taskpb.ContainerSpec {
	return &taskpb.ContainerSpec{
		Isolation: taskpb.Isolation_ISOLATION_USERNS, Init: true, CapAdd: []string{"CAP_NET_ADMIN", "CAP_SYS_TIME"}, CapDrop: []string{"CAP_CHOWN"},
		Devices:  []*taskpb.Device{{Source: "/dev/fuse", Target: "/dev/fuse", Access: "rw"}, {Source: "/dev/net/tun", Target: "/dev/tun", Access: "r"}},
		Security: &taskpb.Security{Seccomp: "tight"}, Ulimits: []*taskpb.Ulimit{{Name: "nofile", Soft: 64, Hard: -1}},
		Sysctls: []*taskpb.Sysctl{{Name: "net.ipv4.ip_local_port_range", Value: "1024 65000"}, {Name: "net.core.somaxconn", Value: "1024"}},
		Groups:  []string{"staff", "2000"}, Hosts: []*taskpb.Host{{Name: "db", Address: "192.0.2.7"}, {Name: "db", Address: "2001:db8::7"}},
		Dns: &taskpb.DNS{Servers: []string{"192.0.2.53", "2001:db8::53"}, Search: []string{"corp.example"}, Options: []string{"ndots:2", "rotate"}},
	}
}

func TestCheck(t *testing.T) {
	if err := Check(all()); err != nil {
		t.Fatal(err)
	}
	if err := Check(&taskpb.ContainerSpec{CapDrop: []string{All}}); err != nil {
		t.Fatal(err)
	}
	type c = taskpb.ContainerSpec
	device := func(source, target, access string) func(*c) {
		return func(c *c) { c.Devices = []*taskpb.Device{{Source: source, Target: target, Access: access}} }
	}
	host := func(name, address string) func(*c) {
		return func(c *c) { c.Hosts = []*taskpb.Host{{Name: name, Address: address}} }
	}
	server := func(s ...string) func(*c) { return func(c *c) { c.Dns = &taskpb.DNS{Servers: s} } }
	option := func(o ...string) func(*c) { return func(c *c) { c.Dns = &taskpb.DNS{Options: o} } }
	ulimit := func(name string, soft, hard int64) func(*c) {
		return func(c *c) { c.Ulimits = append(c.Ulimits, &taskpb.Ulimit{Name: name, Soft: soft, Hard: hard}) }
	}
	sysctl := func(name, value string) func(*c) {
		return func(c *c) { c.Sysctls = []*taskpb.Sysctl{{Name: name, Value: value}} }
	}
	for _, tc := range []struct {
		want   string
		change func(*c)
	}{
		{`"NET_ADMIN" is unknown`, func(c *c) { c.CapAdd = []string{"NET_ADMIN"} }},
		{`"ALL" is unknown`, func(c *c) { c.CapAdd = []string{All} }},
		{"given twice", func(c *c) { c.CapAdd = []string{"CAP_BPF", "CAP_BPF"} }},
		{"CAP_CHOWN is what a container's root has", func(c *c) { c.CapAdd, c.CapDrop = []string{"CAP_CHOWN"}, nil }},
		{"may bind every port", func(c *c) { c.CapAdd = []string{"CAP_NET_BIND_SERVICE"} }},
		{"keep one", func(c *c) { c.CapDrop = []string{All, "CAP_CHOWN"} }},
		{"ALL", func(c *c) { c.CapAdd, c.CapDrop = []string{All}, []string{All} }},
		{"below /dev", device("/etc/passwd", "/dev/x", "r")},
		{"below /dev", device("/dev/../etc/passwd", "/dev/x", "r")},
		{"in the container: device", device("/dev/fuse", "/etc/fuse", "r")},
		{"of its own", device("/dev/fuse", "/dev/null", "r")},
		{"of its own", device("/dev/fuse", "/dev/shm/x", "r")},
		{"of its own", device("/dev/fuse", "/dev/redoubt-init", "r")},
		{"letters r, w and m", device("/dev/fuse", "/dev/fuse", "x")},
		{"letters r, w and m", device("/dev/fuse", "/dev/fuse", "")},
		{"each letter once", device("/dev/fuse", "/dev/fuse", "rr")},
		{"two devices at", func(c *c) {
			c.Devices = append(c.Devices, &taskpb.Device{Source: "/dev/a", Target: "/dev/fuse/b", Access: "r"})
		}},
		{"isolation is unknown", func(c *c) { c.Isolation = 2 }},
		{"says nothing", func(c *c) { c.Security = &taskpb.Security{} }},
		{"seccomp profile", func(c *c) { c.Security = &taskpb.Security{Seccomp: "../x"} }},
		{"core: no container's", ulimit("core", 0, 0)},
		{"use cpu, data", ulimit("rtprio", 0, 0)},
		{"given twice", ulimit("nofile", 1, 1)},
		{"negative", ulimit("nproc", -2, 1)},
		{"above the hard", ulimit("nproc", 2, 1)},
		{"above the hard", ulimit("nproc", -1, 1)},
		{"none that a container may set", sysctl("net.ipv4.ip_forward", "1")},
		{"none that a container may set", sysctl("net.ipv4.conf.all.rp_filter", "0")},
		{"none that a container may set", sysctl("vm.swappiness", "0")},
		{"its memory is what bounds it", sysctl("kernel.shmmax", "1")},
		{"its memory is what bounds it", sysctl("kernel.core_pattern", "|/x")},
		{"numbers", sysctl("net.core.somaxconn", "a")},
		{"numbers", sysctl("net.core.somaxconn", "")},
		{"numbers", sysctl("net.core.somaxconn", "1\n2")},
		{"group", func(c *c) { c.Groups = []string{"a b"} }},
		{"group", func(c *c) { c.Groups = []string{"-1"} }},
		{"group", func(c *c) { c.Groups = []string{"4294967295"} }},
		{"group", func(c *c) { c.Groups = []string{"007"} }},
		{"given twice", func(c *c) { c.Groups = []string{"a", "a"} }},
		{"localhost", host("LOCALHOST", "192.0.2.1")},
		{"names that begin with tasks.", host("tasks.web", "192.0.2.1")},
		{"letters, digits", host("a b", "192.0.2.1")},
		{"letters, digits", host("a\nb", "192.0.2.1")},
		{"no hyphen", host("-a", "192.0.2.1")},
		{"no IP address", host("a", "192.0.2.01")},
		{"no IP address", host("a", "host-gateway")},
		{"no IP address", host("a", "fe80::1%eth0")},
		{"no IP address", host("a", "::ffff:192.0.2.1")},
		{"twice", func(c *c) { c.Hosts = append(c.Hosts, c.Hosts[0]) }},
		{"not of the node", server("127.0.0.53")},
		{"not of the node", server("169.254.169.254")},
		{"not of the node", server("0.0.0.0")},
		{"not of the node", server("::1")},
		{"not of the node", server("fe80::1")},
		{"no IP address", server("dns.example")},
		{"no IP address", server("192.0.2.1:53")},
		{"twice", server("192.0.2.1", "192.0.2.1")},
		{"at most 3", server("192.0.2.1", "192.0.2.2", "192.0.2.3", "192.0.2.4")},
		{"says nothing", server()},
		{"is unknown", option("debug")},
		{"at most 15", option("ndots:99")},
		{"at most 15", option("ndots:")},
		{"at most 15", option("ndots:+1")},
		{"twice", option("ndots:1", "ndots:2")},
		{"search domain", func(c *c) { c.Dns = &taskpb.DNS{Search: []string{"a b"}} }},
	} {
		c := all()
		tc.change(c)
		if err := Check(c); err == nil || !strings.Contains(err.Error(), tc.want) || strings.ContainsAny(err.Error(), "\n\x00") {
			t.Errorf("got %v, want %q", err, tc.want)
		}
	}
}

func TestCapabilities(t *testing.T) {
	for _, tc := range []struct{ add, drop, wantAdd, wantDrop, wrong string }{
		{"", "", "", "", ""},
		{"net_admin CAP_SYS_TIME", "", "CAP_NET_ADMIN CAP_SYS_TIME", "", ""},
		{"chown net_bind_service", "", "", "", ""},
		{"", "ALL", "", "ALL", ""},
		{"NET_BIND_SERVICE", "ALL", "", "ALL", ""},
		{"chown setuid", "all", "", "CAP_DAC_OVERRIDE CAP_FOWNER CAP_FSETID CAP_KILL CAP_SETGID", ""},
		{"net_raw", "ALL chown", "CAP_NET_RAW", "ALL", ""},
		{"", "net_raw Kill", "", "CAP_KILL CAP_NET_RAW", ""},
		{"all", "", "", "", "are added by their names"},
		{"chown", "chown", "", "", "added and dropped"},
		{"nope", "", "", "", "is unknown"},
		{"", "nope", "", "", "is unknown"},
	} {
		add, drop, err := Capabilities(strings.Fields(tc.add), strings.Fields(tc.drop))
		if tc.wrong != "" {
			if err == nil || !strings.Contains(err.Error(), tc.wrong) {
				t.Errorf("%+v: %v", tc, err)
			}
			continue
		}
		if err != nil || strings.Join(add, " ") != tc.wantAdd || strings.Join(drop, " ") != tc.wantDrop {
			t.Errorf("%+v: %v %v %v", tc, add, drop, err)
		}
		if err := Check(&taskpb.ContainerSpec{CapAdd: add, CapDrop: drop}); err != nil {
			t.Errorf("%+v: %v", tc, err)
		}
	}
	add, drop, err := ChangeCapabilities([]string{"CAP_NET_ADMIN", "CAP_BPF"}, []string{All}, []string{"chown"}, []string{"bpf"})
	if err != nil || !slices.Equal(add, []string{"CAP_NET_ADMIN"}) || slices.Contains(drop, "CAP_CHOWN") || len(drop) != len(DefaultCapabilities)-1 {
		t.Error(add, drop, err)
	}
	if add, drop, err = ChangeCapabilities([]string{"CAP_NET_ADMIN"}, []string{"CAP_KILL"}, []string{"kill"}, nil); err != nil || len(add) != 1 || len(drop) != 0 {
		t.Error(add, drop, err)
	}
	if add, drop, err = ChangeCapabilities(nil, []string{"CAP_KILL"}, nil, []string{"all"}); err != nil || len(add) != 0 || !slices.Equal(drop, []string{All}) {
		t.Error(add, drop, err)
	}
}

func TestHeld(t *testing.T) {
	for _, tc := range []struct {
		c    *taskpb.ContainerSpec
		root bool
		want uint64
	}{
		{&taskpb.ContainerSpec{}, true, 0xfb},
		{&taskpb.ContainerSpec{}, false, 0},
		{&taskpb.ContainerSpec{CapAdd: []string{"CAP_NET_ADMIN"}, CapDrop: []string{"CAP_CHOWN", "CAP_NET_RAW"}}, true, 0xfa | 1<<12},
		{&taskpb.ContainerSpec{CapAdd: []string{"CAP_NET_ADMIN"}, CapDrop: []string{All}}, true, 1 << 12},
		{&taskpb.ContainerSpec{CapAdd: []string{"CAP_CHECKPOINT_RESTORE"}}, false, 1 << 40},
	} {
		if got := CapabilityMask(Held(tc.c, tc.root)); got != tc.want {
			t.Errorf("%v: %x, want %x", tc.c, got, tc.want)
		}
	}
	if Privileged(&taskpb.ContainerSpec{CapDrop: []string{All}, Init: true, Ulimits: all().Ulimits, Sysctls: all().Sysctls}) || !Privileged(all()) ||
		!Privileged(&taskpb.ContainerSpec{Security: &taskpb.Security{Seccomp: "x"}}) || !Privileged(&taskpb.ContainerSpec{Devices: all().Devices}) {
		t.Error("who is privileged is wrong")
	}
}

func TestFeatures(t *testing.T) {
	want := []string{"init", "isolation userns", "capability CAP_NET_ADMIN", "capability CAP_SYS_TIME", "device /dev/fuse", "device /dev/net/tun", "seccomp tight"}
	if got := Features(all()); !slices.Equal(got, want) {
		t.Error(got)
	}
	for _, f := range want[1:] {
		if !strings.Contains(Remedy(f), "rund.") {
			t.Errorf("%s has no remedy", f)
		}
	}
	if Features(&taskpb.ContainerSpec{}) != nil || Remedy("init") != "" || Remedy("seccomp "+Unconfined) == Remedy("seccomp x") {
		t.Error("features of nothing")
	}
}

func facts() *taskpb.FileFacts {
	return &taskpb.FileFacts{ClusterId: "c1", NodeId: "n1", NodeName: "host-1", ServiceId: "s1", ServiceName: "web", Slot: 3, ServiceLabels: map[string]string{"tier": "front"}}
}

func TestExpand(t *testing.T) {
	in := &taskpb.ContainerSpec{
		Templated: true, Hostname: "{{.Service.Name}}-{{.Task.Slot}}",
		Env:    []string{"A={{.Node.Hostname}}", "B=plain", "C={{.Task.Name}} {{.Task.ID}} {{.Service.Labels.tier}}", `D={{"{{"}}`, "E="},
		Mounts: []*taskpb.Mount{{Source: "/srv/{{.Task.Slot}}", Target: "/data"}, {Target: "/tmp"}},
	}
	was := proto.CloneOf(in)
	out, err := Expand(in, Facts("t1", facts()))
	if err != nil {
		t.Fatal(err)
	}
	if !proto.Equal(in, was) || out.Templated {
		t.Error("what was given changed, or has templates still")
	}
	if want := []string{"A=host-1", "B=plain", "C=web.3 t1 front", "D={{", "E="}; !slices.Equal(out.Env, want) || out.Hostname != "web-3" || out.Mounts[0].Source != "/srv/3" {
		t.Errorf("%v", out)
	}
	global := facts()
	global.Slot = 0
	if f := Facts("t1", global); f.Task.Name != "web.n1" {
		t.Error(f.Task.Name)
	}
	plain := &taskpb.ContainerSpec{Env: []string{"A={{.Node.Hostname}}"}}
	if out, err := Expand(plain, Facts("t1", facts())); err != nil || out != plain {
		t.Error("what is no template was filled in")
	}
	for want, c := range map[string]*taskpb.ContainerSpec{
		"hostname: line 1":               {Hostname: "{{.Nope}}"},
		"names no secret":                {Hostname: `{{secret "x"}}`},
		"environment variable A: its va": {Env: []string{"A={{topsecret}}"}},
		"source of the mount at /x":      {Mounts: []*taskpb.Mount{{Target: "/x", Source: "/{{range .Service.Labels}}{{end}}"}}},
		"at most 63 are allowed":         {Hostname: "{{.Service.Name}}" + strings.Repeat("x", 61)},
		"more than 1024 templates":       {Env: []string{"A=" + strings.Repeat("{{.Task.Slot}}", 1000)}, Hostname: strings.Repeat("{{.Task.Slot}}", 25)},
	} {
		c.Templated = true
		_, err := Expand(c, Facts("t1", facts()))
		if err == nil || !strings.Contains(err.Error(), want) || strings.Contains(err.Error(), "topsecret") {
			t.Errorf("got %v, want %q", err, want)
		}
	}
	if Templated(plain) != true || Templated(&taskpb.ContainerSpec{Env: []string{"A=b", "C"}, Hostname: "x", Mounts: in.Mounts[1:]}) || !Templated(in) {
		t.Error("what looks like a template is wrong")
	}
}

// FuzzCheck: nothing that passes could mean something else where it is used.
func FuzzCheck(f *testing.F) {
	for _, c := range []*taskpb.ContainerSpec{all(), {CapDrop: []string{All}}, {Dns: &taskpb.DNS{Options: []string{"ndots:"}}}} {
		b, err := proto.Marshal(c)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		c := &taskpb.ContainerSpec{}
		if proto.Unmarshal(b, c) != nil || Check(c) != nil {
			return
		}
		var written []string
		for _, h := range c.GetHosts() {
			written = append(written, h.GetName(), h.GetAddress())
		}
		written = append(written, slices.Concat(c.GetGroups(), c.GetDns().GetServers(), c.GetDns().GetSearch(), c.GetDns().GetOptions(), c.GetCapAdd(), c.GetCapDrop())...)
		for _, s := range written {
			if s == "" || strings.ContainsAny(s, " \t\n\r\x00#,") {
				t.Fatalf("%q would be more than one word", s)
			}
		}
		for _, s := range c.GetSysctls() {
			if !slices.Contains(SysctlNames(), s.GetName()) || strings.ContainsAny(s.GetValue(), "\n\x00") {
				t.Fatalf("sysctl %v", s)
			}
		}
		for _, d := range c.GetDevices() {
			if !strings.HasPrefix(d.GetSource(), "/dev/") || strings.Contains(d.GetSource()+d.GetTarget(), "..") && strings.Contains(d.GetSource()+d.GetTarget(), "/../") {
				t.Fatalf("device %v", d)
			}
		}
		for _, u := range c.GetUlimits() {
			if _, limit := Rlimit(u); limit.Cur > limit.Max {
				t.Fatalf("ulimit %v", u)
			}
		}
	})
}

func FuzzExpand(f *testing.F) {
	for _, s := range []string{"", "{{.Service.Name}}", "{{", "}}", `{{secret "a"}}`, "{{if .Task}}x{{end}}", "{{index .Service.Labels `tier`}}"} {
		f.Add(s, s, s)
	}
	f.Fuzz(func(t *testing.T, env, hostname, source string) {
		in := &taskpb.ContainerSpec{Templated: true, Env: []string{"A=" + env}, Hostname: hostname, Mounts: []*taskpb.Mount{{Source: source}}}
		out, err := Expand(in, Facts("t1", facts()))
		if err != nil {
			if strings.ContainsAny(err.Error(), "\n\x00") {
				t.Fatalf("%q is not one line", err)
			}
			return
		}
		if strings.Contains(hostname, "{{") && len(out.Hostname) > maxHostname || !strings.HasPrefix(out.Env[0], "A=") {
			t.Fatalf("%v", out)
		}
	})
}

func FuzzCapabilities(f *testing.F) {
	f.Add("net_admin", "ALL")
	f.Add("CAP_CHOWN,bpf", "all,kill")
	f.Fuzz(func(t *testing.T, a, d string) {
		add, drop, err := Capabilities(strings.Split(a, ","), strings.Split(d, ","))
		if err != nil {
			return
		}
		if err := Check(&taskpb.ContainerSpec{CapAdd: add, CapDrop: drop}); err != nil {
			t.Fatalf("%q %q: %v", a, d, err)
		}
	})
}
