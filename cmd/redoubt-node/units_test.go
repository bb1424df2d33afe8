package main

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/redoubt-cluster/redoubt/internal/account"
	"github.com/redoubt-cluster/redoubt/internal/sandbox"
)

const unitDir = "../../deploy/systemd"

// unit holds every value of each key of a unit file, in order; an empty value
// resets the list, as in systemd.
type unit map[string][]string

func readUnit(t *testing.T, name string) unit {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(unitDir, name))
	if err != nil {
		t.Fatal(err)
	}
	u := unit{}
	for line := range strings.Lines(string(b)) {
		line = strings.TrimSpace(line)
		if line == "" || strings.HasPrefix(line, "#") || strings.HasPrefix(line, "[") {
			continue
		}
		k, v, ok := strings.Cut(line, "=")
		if !ok || strings.HasSuffix(line, `\`) {
			t.Fatalf("%s: cannot read %q", name, line)
		}
		if v == "" {
			u[k] = nil
			continue
		}
		u[k] = append(u[k], strings.Fields(v)...)
	}
	return u
}

func (u unit) one(key string) string { return strings.Join(u[key], " ") }

// The users of sysusers.d stand for the accounts in this comparison.
var unitUsers = map[account.Account]string{{}: "root", {UID: 1, GID: 1}: "redoubt", {UID: 2, GID: 2}: "redoubt-keyd", {UID: 3, GID: 3}: "redoubt-netd", {UID: 4, GID: 4}: "redoubt-named"}

// TestUnitsAgree: what the supervisor gives a daemon and what its unit does are
// the same, so that a node is as safe under either.
func TestUnitsAgree(t *testing.T) {
	c := config{configFile: "/etc/redoubt/config.yaml", dataDir: "/var/lib/redoubt", runDir: "/run/redoubt", binDir: "/usr/lib/redoubt",
		control: account.Account{UID: 1, GID: 1}, keyd: account.Account{UID: 2, GID: 2}, netd: account.Account{UID: 3, GID: 3}, named: account.Account{UID: 4, GID: 4}}
	sockets := 0
	target := readUnit(t, "redoubt.target")
	for _, d := range daemons(c) {
		u := readUnit(t, d.name()+".service")
		same := func(key, want string) {
			t.Helper()
			if got := u.one(key); got != want {
				t.Errorf("%s.service: %s=%s, the supervisor says %q", d.name(), key, got, want)
			}
		}
		command := strings.Join(append([]string{d.path}, d.args...), " ")
		command = strings.Replace(command, "--control-user 1", "--control-user redoubt", 1)
		command = strings.Replace(command, "--netd-user 3", "--netd-user redoubt-netd", 1)
		if d.ownMountsBut != "" {
			command = "/usr/lib/redoubt/redoubt-node " + ownMountsVerb + " --but " + d.ownMountsBut + " --lock-data " + c.dataDir + " --lock-run " + c.runDir + " -- " + command
			for _, key := range mountNamespaceKeys {
				if u[key] != nil {
					t.Errorf("%s.service: %s= makes a mount namespace, which hides what it mounts from the others", d.name(), key)
				}
			}
		}
		var caps []string
		for _, n := range d.caps {
			caps = append(caps, sandbox.Capability(n).String())
		}
		slices.Sort(caps)
		same("ExecStart", command)
		same("User", unitUsers[d.account])
		same("Group", unitUsers[d.account])
		for _, set := range []string{"CapabilityBoundingSet", "AmbientCapabilities"} {
			slices.Sort(u[set])
			same(set, strings.Join(caps, " "))
		}
		same("LimitCORE", "0")
		same("LimitNOFILE", "65536")
		same("LimitMEMLOCK", fmt.Sprintf("%dM", d.memlock>>20))
		nice := "" // systemd's own default
		if d.nice != 0 {
			nice = strconv.Itoa(d.nice)
		}
		same("Nice", nice)
		same("Environment", "GOTRACEBACK="+d.traceback)
		same("NoNewPrivileges", "yes")
		same("UMask", "0077")
		same("Restart", "always")
		same("StartLimitIntervalSec", "0")
		same("TimeoutStopSec", fmt.Sprintf("%ds", int(stopGrace.Seconds())))
		var names []string
		for _, s := range d.sockets {
			name := "redoubt-" + s.name + ".socket"
			names = append(names, name)
			su := readUnit(t, name)
			owner, group := unitUsers[account.Account{UID: s.owner.UID, GID: s.owner.UID}], unitUsers[account.Account{UID: s.owner.GID, GID: s.owner.GID}]
			for key, want := range map[string]string{"ListenStream": c.runDir + "/" + s.name + ".sock", "FileDescriptorName": s.name, "SocketUser": owner,
				"SocketGroup": group, "SocketMode": fmt.Sprintf("%04o", s.mode()), "DirectoryMode": "0711", "Service": d.name() + ".service"} {
				if got := su.one(key); got != want {
					t.Errorf("%s: %s=%s, the supervisor says %q", name, key, got, want)
				}
			}
			sockets++
		}
		same("Sockets", strings.Join(names, " "))
		if !slices.Contains(target["Wants"], d.name()+".service") {
			t.Errorf("redoubt.target does not want %s.service", d.name())
		}
	}
	for pattern, want := range map[string]int{"*.service": len(daemons(c)), "*.socket": sockets} {
		if found, _ := filepath.Glob(filepath.Join(unitDir, pattern)); len(found) != want {
			t.Errorf("%d units are %s, the supervisor knows %d", len(found), pattern, want)
		}
	}
	// --cni and the drop-in add the same.
	c.cni = true
	for _, d := range daemons(c) {
		drop := unit{}
		if d.name() == "redoubt-rund" {
			drop = readUnit(t, "drop-in/redoubt-rund-cni.conf")
		}
		var want []string
		for _, n := range d.caps {
			want = append(want, sandbox.Capability(n).String())
		}
		for _, set := range []string{"CapabilityBoundingSet", "AmbientCapabilities"} {
			got := append(slices.Clone(readUnit(t, d.name()+".service")[set]), drop[set]...)
			slices.Sort(got)
			slices.Sort(want)
			if !slices.Equal(got, want) {
				t.Errorf("%s with CNI: %s=%s, the supervisor says %s", d.name(), set, got, want)
			}
		}
	}
	// The directories are those that the supervisor makes.
	have := map[string]string{}
	for _, name := range []string{"redoubt.tmpfiles"} {
		b, err := os.ReadFile(filepath.Join(unitDir, name))
		if err != nil {
			t.Fatal(err)
		}
		for line := range strings.Lines(string(b)) {
			if f := strings.Fields(line); len(f) == 6 {
				have[f[1]] = f[2] + " " + f[3] + " " + f[4]
			}
		}
	}
	for _, d := range dirs(c) {
		if want := fmt.Sprintf("0%o %[2]s %[2]s", d.mode, unitUsers[d.owner]); have[d.path] != want {
			t.Errorf("tmpfiles: %s is %q, the supervisor says %q", d.path, have[d.path], want)
		}
	}
}

// Settings with which systemd makes a mount namespace (its exec_needs_mount_namespace).
var mountNamespaceKeys = []string{"BindPaths", "BindReadOnlyPaths", "ExecPaths", "ExtensionImages", "InaccessiblePaths", "LoadCredential", "MountAPIVFS",
	"MountFlags", "MountImages", "NoExecPaths", "PrivateDevices", "PrivateIPC", "PrivateMounts", "PrivateTmp", "ProcSubset", "ProtectControlGroups",
	"ProtectHome", "ProtectKernelLogs", "ProtectKernelModules", "ProtectKernelTunables", "ProtectProc", "ProtectSystem", "ReadOnlyPaths",
	"ReadWritePaths", "RootDirectory", "RootImage", "SetCredential", "TemporaryFileSystem"}

// TestUnitsVerify asks systemd itself: the units load, and each is exposed no
// more than it was (0 is best, 10 worst). rund mounts as root, which is most of
// what is scored.
func TestUnitsVerify(t *testing.T) {
	dir := t.TempDir()
	bin := filepath.Join(dir, "bin")
	if err := os.Mkdir(bin, 0o755); err != nil {
		t.Fatal(err)
	}
	files, err := filepath.Glob(filepath.Join(unitDir, "*.*"))
	if err != nil {
		t.Fatal(err)
	}
	args := []string{"verify", "--man=no"}
	for _, f := range files {
		b, err := os.ReadFile(f)
		if err != nil {
			t.Fatal(err)
		}
		if filepath.Ext(f) == ".sysusers" || filepath.Ext(f) == ".tmpfiles" {
			continue
		}
		to := filepath.Join(dir, filepath.Base(f))
		args = append(args, to)
		if err := os.WriteFile(to, []byte(strings.ReplaceAll(string(b), "/usr/lib/redoubt/", bin+"/")), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	for _, d := range append(daemons(config{}), daemon{path: "redoubt-node"}) {
		if err := os.WriteFile(filepath.Join(bin, d.name()), []byte("#!/bin/false\n"), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	// Warnings do not change its exit code.
	if out, err := exec.Command("systemd-analyze", args...).CombinedOutput(); err != nil || len(out) > 0 {
		t.Errorf("systemd-analyze verify: %v\n%s", err, out)
	}
	for name, tenths := range map[string]int{"redoubt-keyd": 5, "redoubtd": 15, "redoubt-named": 15, "redoubt-netd": 27, "redoubt-rund": 55} {
		out, err := exec.Command("systemd-analyze", "security", "--offline=yes", fmt.Sprintf("--threshold=%d", tenths), "--no-pager", filepath.Join(dir, name+".service")).CombinedOutput()
		if err != nil {
			t.Errorf("%s.service is exposed more than %d.%d: %v\n%s", name, tenths/10, tenths%10, err, out)
		}
	}
	users, err := filepath.Abs(filepath.Join(unitDir, "redoubt.sysusers"))
	if err != nil {
		t.Fatal(err)
	}
	root := t.TempDir() // a machine without users
	if err := os.Mkdir(filepath.Join(root, "etc"), 0o755); err != nil {
		t.Fatal(err)
	}
	if out, err := exec.Command("systemd-sysusers", "--root="+root, users).CombinedOutput(); err != nil {
		t.Errorf("systemd-sysusers: %v\n%s", err, out)
	}
	made, _ := os.ReadFile(filepath.Join(root, "etc/passwd"))
	for _, user := range unitUsers {
		if user != "root" && !strings.Contains("\n"+string(made), "\n"+user+":") {
			t.Errorf("sysusers.d makes no user %s: %s", user, made)
		}
	}
}
