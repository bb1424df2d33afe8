package e2e

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/redoubt-cluster/redoubt/internal/ident"
)

// TestConfine: containers have the ulimits, sysctls, capabilities, devices, names and
// templates that their service asks for, where the node allows them; what it does not is
// refused at each layer in one line that says what to do.
func TestConfine(t *testing.T) {
	t.Parallel()
	c := up(t, "confine", 1, 1)
	const m, image = "manager-1", "redoubt.test/probe:1"
	c.lab("load", checkedImage(t, image, "/probe"))
	dev := "/dev/redoubt-e2e-" + ident.New()[:8]
	if err := unix.Mknod(dev, unix.S_IFCHR|0o666, int(unix.Mkdev(1, 3))); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.Remove(dev) })
	if err := os.Chmod(dev, 0o666); err != nil {
		t.Fatal(err)
	}
	allow(c, "worker-1", fmt.Sprintf("  allowed_capabilities: [CAP_NET_RAW]\n  allowed_devices:\n    - {path: %s}\n", dev))

	once := func(name string, args ...string) string {
		t.Helper()
		c.ok(m, append([]string{"service", "create", "-d", "--name", name, "--restart-condition", "none", "--no-healthcheck"}, args...)...)
		return name
	}
	t.Run("what it is given", func(t *testing.T) {
		sub := *c
		sub.t = t
		once("given", "--init", "--user", "1000", "--group", "2000", "--cap-add", "net_raw", "--ulimit", "nofile=300:400", "--sysctl", "net.ipv4.tcp_keepalive_time=77",
			"--device", dev+":/dev/mine", "--host", "db:192.0.2.7", "--dns", "192.0.2.53", "--dns-search", "corp.example", "--dns-option", "ndots:2",
			"--hostname", "{{.Service.Name}}-{{.Task.Slot}}", "--env", "AT={{.Node.Hostname}}", image, "cat", "/proc/1/status", "/proc/1/limits",
			"/proc/sys/net/ipv4/tcp_keepalive_time", "/proc/1/environ", "/etc/hosts", "/etc/resolv.conf", "/etc/hostname")
		text := sub.printedAll("given", "/etc/hostname: ")
		for _, want := range []string{"CapEff: 0000000000002000", "CapBnd: 0000000000002000", "NoNewPrivs: 1", "Seccomp: 2", "Groups: 0 2000", "Max open files 300 400", "tcp_keepalive_time: 77",
			"192.0.2.7 db", "nameserver 192.0.2.53", "search corp.example", "options ndots:2", "AT=worker-1", "/etc/hostname: given-1"} {
			if !strings.Contains(text, want) {
				t.Errorf("lacks %q:\n%s", want, text)
			}
		}
		if got := sub.ok(m, "service", "inspect", "given"); !strings.Contains(got, "CAP_NET_RAW") || !strings.Contains(got, dev+":/dev/mine:rw") || !strings.Contains(got, "nofile=300:400") ||
			!strings.Contains(got, "db:192.0.2.7") || !strings.Contains(got, "ndots:2") {
			t.Errorf("inspect:\n%s", got)
		}
	})
	t.Run("init reaps", func(t *testing.T) {
		sub := *c
		sub.t = t
		once("reaped", "--init", image, "orphan")
		once("kept", image, "orphan")
		if got := sub.printedAll("reaped", "zombies: "); !strings.Contains(got, "zombies: 0") {
			t.Error(got)
		}
		if got := sub.printedAll("kept", "zombies: "); !strings.Contains(got, "zombies: 1") {
			t.Error(got)
		}
	})
	t.Run("a device", func(t *testing.T) {
		sub := *c
		sub.t = t
		once("device", "--device", dev+":/dev/mine", image, "open", "/dev/mine")
		if got := sub.printedAll("device", "/dev/mine: "); !strings.Contains(got, "/dev/mine: <nil>") {
			t.Error(got)
		}
	})
	t.Run("a range of its own", func(t *testing.T) {
		sub := *c
		sub.t = t
		if r := sub.onIn(m, []byte("s3same"), "secret", "create", "token", "-"); r.code != 0 {
			t.Fatal(r)
		}
		once("alone", "--isolation", "userns", "--user", "1000", "--secret", "source=token,uid=1000", image, "cat", "/proc/self/uid_map", "/run/secrets/token", "/proc/self/status")
		got := sub.printedAll("alone", "Seccomp:")
		if !strings.Contains(got, "s3same") || !strings.Contains(got, "uid_map: 0 10905") || !strings.Contains(got, "Uid: 1000 1000 1000 1000") {
			t.Error(got)
		}
		once("lives", "--isolation", "userns", "--init", image, "wait")
		sub.printedAll("lives", "ready")
	})
	t.Run("what no node allows waits and says so", func(t *testing.T) {
		sub := *c
		sub.t = t
		once("greedy", "--cap-add", "SYS_ADMIN", image)
		once("tight", "--security-opt", "seccomp=tight", image)
		once("bare", "--security-opt", "seccomp=unconfined", image)
		for name, want := range map[string]string{"greedy": "capability CAP_SYS_ADMIN (rund.allowed_capabilities there)", "tight": "seccomp tight (rund.seccomp_profiles there)", "bare": "rund.seccomp_unconfined there"} {
			eventually(t, 20*time.Second, func() string {
				if got := sub.ok(m, "service", "ps", "--format", "json", name); !strings.Contains(got, want) {
					return got
				}
				return ""
			})
		}
		allow(c, "worker-1", "  seccomp_unconfined: true\n")
		eventually(t, 40*time.Second, func() string {
			got := sub.ok(m, "service", "ps", "--format", "json", "bare")
			var tasks []taskJSON
			if sub.decode(got, &tasks); len(tasks) != 1 || tasks[0].State != "running" {
				return got
			}
			return ""
		})
	})
	t.Run("refused where it is written", func(t *testing.T) {
		sub := *c
		sub.t = t
		for want, flags := range map[string][]string{
			"may bind every port":              nil,
			"use seccomp=PROFILE":              {"--security-opt", "privileged"},
			"no container gains":               {"--security-opt", "no-new-privileges=false"},
			"AppArmor":                         {"--security-opt", "apparmor=unconfined"},
			"added and dropped":                {"--cap-add", "bpf", "--cap-drop", "BPF"},
			"below /dev":                       {"--device", "/etc/shadow"},
			"no container has a way":           {"--host", "host.docker.internal:host-gateway"},
			"sysctl \"kernel.core_pattern\"":   {"--sysctl", "kernel.core_pattern=|/x"},
			"none that a container may set":    {"--sysctl", "net.ipv4.ip_forward=1"},
			"ulimit core":                      {"--ulimit", "core=-1"},
			"not of the node":                  {"--dns", "127.0.0.53"},
			"hostname: line 1":                 {"--hostname", "{{.Nope}}"},
			"outside of configs names no secr": {"--hostname", `{{secret "a"}}`},
			"environment variable A: its valu": {"--env", `A={{.Nope}}`},
		} {
			if flags == nil {
				sub.ok(m, "service", "create", "-d", "--name", "harmless", "--cap-add", "NET_BIND_SERVICE", "--cap-drop", "ALL", "--security-opt", "no-new-privileges", image)
				if got := sub.ok(m, "service", "inspect", "harmless"); strings.Contains(got, "Capabilities added") || !strings.Contains(got, "ALL") {
					t.Error(got)
				}
				continue
			}
			r := sub.on(m, append(append([]string{"service", "create", "-d", "--name", "never"}, flags...), image)...)
			if r.code == 0 || !strings.Contains(r.stderr, want) || strings.Count(strings.TrimSpace(r.stderr), "\n") != 0 {
				t.Errorf("%v: %v, want %q", flags, r, want)
			}
		}
	})
	t.Run("who may ask", func(t *testing.T) {
		sub := *c
		sub.t = t
		dora := sub.desk("worker-1")
		if r := dora.run(sub.ok(m, "person", "invite", "-q", "dora"), "context", "create", "prod", "--use"); r.code != 0 {
			t.Fatal(r)
		}
		sub.ok(m, "auth", "bind", "deployer", "person:dora")
		for _, flags := range [][]string{{"--cap-add", "SYS_ADMIN"}, {"--device", "/dev/fuse"}, {"--security-opt", "seccomp=unconfined"}} {
			if r := dora.run("", append(append([]string{"service", "create", "-d", "--name", "hers"}, flags...), image)...); r.code != 5 || !strings.Contains(r.stderr, "service.privileged") {
				t.Errorf("%v: %v", flags, r)
			}
		}
		dora.ok("service", "create", "-d", "--name", "hers", "--cap-drop", "ALL", "--cap-add", "CHOWN", "--init", "--ulimit", "nofile=64", image)
		if r := dora.run("", "service", "update", "-d", "--device-add", "/dev/fuse", "hers"); r.code != 5 || !strings.Contains(r.stderr, "service.privileged") {
			t.Error(r)
		}
		dora.ok("service", "update", "-d", "--ulimit-rm", "nofile", "--cap-drop", "CHOWN", "--host-add", "db:192.0.2.1", "hers")
		if got := dora.ok("service", "inspect", "hers"); !strings.Contains(got, "CAP_CHOWN") || strings.Contains(got, "nofile") || !strings.Contains(got, "db:192.0.2.1") {
			t.Error(got)
		}
	})
	t.Run("names that hide others", func(t *testing.T) {
		sub := *c
		sub.t = t
		sub.ok(m, "network", "create", "back")
		sub.ok(m, "service", "create", "-d", "--name", "store", "--network", "back", image)
		r := sub.on(m, "service", "create", "-d", "--name", "user", "--network", "back", "--host", "store:192.0.2.9", image)
		if r.code != 0 || !strings.Contains(r.stderr, "the host store is what --host says, and not service store of network back") {
			t.Error(r)
		}
	})
	t.Run("what runs is judged", func(t *testing.T) {
		sub := *c
		sub.t = t
		once("raw", "--cap-add", "NET_RAW", image, "wait")
		sub.printedAll("raw", "ready")
		got := sub.on(m, "compliance", "run", "--format", "{{.Control}} {{.Target.name}} {{.Outcome}} {{.Evidence}}")
		for _, l := range strings.Split(got.stdout, "\n") {
			if f := strings.Fields(l); len(f) > 2 && f[0] == "containers-confined" && f[2] != "pass" {
				t.Error(l)
			}
		}
		if !strings.Contains(got.stdout, "containers-confined worker-1 pass") {
			t.Error(got)
		}
	})
}

// allow adds lines to rund's section of a host's configuration, and starts its daemons
// anew.
func allow(c *cluster, name, lines string) {
	c.t.Helper()
	config := filepath.Join(filepath.Dir(c.host(name).DataDir), "config.yaml")
	text, err := os.ReadFile(config)
	if err == nil {
		err = os.WriteFile(config, []byte(strings.Replace(string(text), "\nrund:\n", "\nrund:\n"+lines, 1)), 0o644)
	}
	if err != nil {
		c.t.Fatal(err)
	}
	c.lab("stop", name)
	c.lab("start", name)
}

// printedAll waits until the service's only task has printed something that has that,
// and returns all, with its white space as one.
func (c *cluster) printedAll(name, has string) (text string) {
	c.t.Helper()
	eventually(c.t, 30*time.Second, func() string {
		r := c.on("manager-1", "service", "logs", "--raw", name)
		if !strings.Contains(r.stdout, has) {
			return r.String() + c.on("manager-1", "service", "ps", "--format", "json", name).String()
		}
		text = strings.Join(strings.Fields(strings.ReplaceAll(r.stdout, "\x00", " ")), " ")
		return ""
	})
	return text
}
