package control

import (
	"context"
	"errors"
	"os"
	"slices"
	"strings"
	"testing"
)

// sabotage is, for each control, what makes it fail, and no other.
var sabotage = map[string]map[string]func(*world){
	"autolock-on": {"the seed beside the state": func(w *world) { w.file("data/keyd/auto-abc", "RDTN\x01seed", 71001, 0o600) }},
	"config-trusted": {
		"written by all":    func(w *world) { w.own("etc/config.yaml", 0, 0o666) },
		"written by a user": func(w *world) { w.own("etc/config.yaml", 1000, 0o644) },
	},
	"containers-confined": {
		"a capability": func(w *world) {
			w.change("proc/800/status", "CapEff:\t0000000000000000", "CapEff:\t0000000000200000")
		},
		"one that root may have": func(w *world) {
			w.change("proc/800/status", "CapPrm:\t0000000000000000", "CapPrm:\t0000000000000001")
		},
		"one that its node does not allow": func(w *world) {
			w.task.Capabilities = 1 << 12
			w.change("proc/800/status", "CapPrm:\t0000000000000000", "CapPrm:\t0000000000003000")
		},
		"no filter":      func(w *world) { w.change("proc/800/status", "Seccomp:\t2", "Seccomp:\t0") },
		"new privileges": func(w *world) { w.change("proc/800/status", "NoNewPrivs:\t1", "NoNewPrivs:\t0") },
		"another user":   func(w *world) { w.change("proc/800/status", "Uid:\t101000", "Uid:\t100000") },
		"the node's root": func(w *world) {
			w.change("proc/800/status", "Uid:\t101000", "Uid:\t0")
		},
		"the node's root for its own": func(w *world) {
			w.task.User = 0
			w.change("proc/800/status", "Uid:\t101000", "Uid:\t0")
		},
		"the node's ids": func(w *world) { w.change("proc/800/uid_map", "100000      65536", "0 4294967295") },
		"another process with rights": func(w *world) {
			w.change("proc/800/root/proc/9/status", "CapEff:\t0000000000000000", "CapEff:\t000001ffffffffff")
		},
		"another process of the node's root": func(w *world) {
			w.change("proc/800/root/proc/9/status", "Uid:\t101000", "Uid:\t0")
		},
		"a root to write": func(w *world) {
			w.change("proc/800/mountinfo", "/ / ro,", "/ / rw,")
		},
	},
	"containers-files-granted": {
		"one more":           func(w *world) { w.task.Files["secrets"] = 2 },
		"a place of its own": func(w *world) { w.task.Files["at/2"] = 1 },
		"of no container":    func(w *world) { w.task = Container{Task: "t2", Files: map[string]int{"secrets": 1}} },
	},
	"containers-image": {
		"another digest": func(w *world) { w.task.Wanted = "sha256:bb" },
		"other layers":   func(w *world) { w.task.Layers = "redoubt-userns-2" },
		"not admitted": func(w *world) {
			w.task.Refused = "the image policy refuses it, rule own: it has no signature by release"
		},
	},
	"containers-signed": {"not signed": func(w *world) {
		w.task.Unsigned = "deployment lock, rule signed: the service is not signed"
	}},
	"daemon-capabilities": {
		"one of keyd's": func(w *world) {
			w.change(pid("redoubt-keyd")+"status", "CapEff:\t0000000000000000", "CapEff:\t0000000000001000")
		},
		"a bound of all": func(w *world) {
			w.change(pid("redoubt-rund")+"status", "CapBnd:\t00000000002000fb", "CapBnd:\t000001ffffffffff")
		},
	},
	"daemon-no-core": {"cores without end": func(w *world) {
		w.change(pid("redoubtd")+"limits", "size        0                    0 ", "size        0                    unlimited ")
	}},
	"daemon-no-new-privs": {"of netd": func(w *world) { w.change(pid("redoubt-netd")+"status", "NoNewPrivs:\t1", "NoNewPrivs:\t0") }},
	"daemon-seccomp":      {"none for named": func(w *world) { w.change(pid("redoubt-named")+"status", "Seccomp:\t2", "Seccomp:\t0") }},
	"daemon-undumpable":   {"keyd's memory": func(w *world) { w.own(pid("redoubt-keyd")+"mem", 71001, 0o600) }},
	"daemon-users": {
		"a group": func(w *world) { w.change(pid("redoubtd")+"status", "Groups:\t ", "Groups:\t998 ") },
		"two as one": func(w *world) {
			w.change(pid("redoubt-named")+"status", "71003\t71003\t71003\t71003", "71002\t71002\t71002\t71002")
		},
		"root": func(w *world) { w.change(pid("redoubt-named")+"status", "71003\t71003\t71003\t71003", "0\t0\t0\t0") },
	},
	"files-own": {
		"a key for all to read": func(w *world) { w.own("data/control/leaf", 71000, 0o644) },
		"another's":             func(w *world) { w.own("data/keyd/journal", 71000, 0o600) },
		"a directory":           func(w *world) { w.own("data/keyd", 71001, 0o755) },
		"a link":                func(w *world) { w.link("data/control/away", "/etc/passwd") },
	},
	"keyd-locked-memory": {
		"not locked": func(w *world) { w.change(pid("redoubt-keyd")+"status", "VmLck:\t   65536 kB", "VmLck:\t       0 kB") },
		"swapped":    func(w *world) { w.change(pid("redoubt-keyd")+"status", "VmSwap:\t       0 kB", "VmSwap:\t       8 kB") },
	},
	"keyd-no-network": {
		"a connection":       func(w *world) { w.link(pid("redoubt-keyd")+"fd/4", "socket:[4242]") },
		"of a kind unlisted": func(w *world) { w.link(pid("redoubt-keyd")+"fd/4", "socket:[999]") },
		"behind many others": func(w *world) {
			line := "   1: 0100007F:0949 00000000:0000 0A 0 0 0 0 0 5 1\n"
			w.file(pid("redoubt-keyd")+"net/udp", strings.Repeat(line, 2*maxProcFile/len(line))+strings.Replace(line, " 5 ", " 777 ", 1), 0, 0o444)
		},
	},
	"lock-kept": {"the file was changed": func(w *world) { w.lock.Changed = "/var/lib/redoubt/rund/lock is gone" }},
	"networks-enforced": {
		"rules that were changed": func(w *world) {
			w.daemon.Networks = func(context.Context) (Networks, error) { return Networks{Changed: "changed by somebody"}, nil }
		},
		"a network that is not as declared": func(w *world) {
			w.daemon.Networks = func(context.Context) (Networks, error) {
				return Networks{Wrong: []string{"network n1: no interface"}}, nil
			}
		},
	},
	"nothing-in-clear": {
		"PEM":             func(w *world) { w.file("data/control/old", "-----BEGIN PRIVATE KEY-----\nx", 71000, 0o600) },
		"an operator key": func(w *world) { w.file("data/keyd/note", strings.Repeat("x", piece-3)+"RDTKEY-ABCD", 71001, 0o600) },
		"an invitation":   func(w *world) { w.file("data/control/mail", "RDTI1."+strings.Repeat("a", 26)+".", 71000, 0o600) },
		"an identity":     func(w *world) { w.file("data/control/age", "AGE-SECRET-KEY-1QQQQ", 71000, 0o600) },
		"a token": func(w *world) {
			w.file("data/control/raft/raft.tmp", "RDT1."+strings.Repeat("a", 26)+".", 71000, 0o600)
		},
	},
	"programs-trusted": {
		"replaced": func(w *world) { w.link(pid("redoubtd")+"exe", "/usr/lib/redoubt/redoubtd (deleted)") },
		"written by others": func(w *world) {
			w.file("bin/keyd", "", 71001, 0o755)
			w.link(pid("redoubt-keyd")+"exe", w.path("bin/keyd"))
		},
	},
	"roots-kept": {"a root of somebody else's": func(w *world) {
		w.daemon.Roots = func() (trusted, kept [][]byte, err error) { return [][]byte{{1, 2}}, [][]byte{{1, 2}, {5, 6}}, nil }
	}},
	"sockets-own": {
		"for all":    func(w *world) { w.own("run/keyd.sock", 71000, 0o666) },
		"of another": func(w *world) { w.own("run/unlock.sock", 71000, 0o600) },
		"unknown":    func(w *world) { w.socket("run/debug.sock", 0) },
	},
	"state-sealed": {
		"the keyset": func(w *world) { w.change("data/keyd/state", "RDTK", "JSON") },
		"a snapshot": func(w *world) { w.change("data/control/raft/snapshots/1-2/state", "RDTS", "JSON") },
		"the store":  func(w *world) { w.change("data/control/raft/raft.db", record, strings.Repeat("x", len(record))) },
		"the store, beside something sealed": func(w *world) {
			w.change("data/control/raft/raft.db", record, strings.Repeat("x", len(record)))
			w.file("data/control/raft/wal/1-1.wal", record, 71000, 0o600)
			w.own("data/control/raft/wal", 71000, 0o700)
		},
		"a segment of the audit log": func(w *world) { w.change("data/control/raft/audit/0000000000000001", "RDTS", "JSON") },
	},
}

// TestSabotage: every control passes where all is well, and each fails by its own
// sabotage, says what it found, and no other does.
func TestSabotage(t *testing.T) {
	if os.Getuid() != 0 {
		t.Fatal("files of several owners are made by root")
	}
	for _, r := range newWorld(t).results() {
		if r.Outcome != Pass {
			t.Errorf("%s where all is well: %s %q", r.Control.ID, r.Outcome, r.Evidence)
		}
		if len(sabotage[r.Control.ID]) == 0 {
			t.Errorf("%s has no sabotage that makes it fail", r.Control.ID)
		}
	}
	for id, ways := range sabotage {
		if !slices.ContainsFunc(All(), func(c Control) bool { return c.ID == id }) {
			t.Errorf("%s is no control", id)
		}
		for name, harm := range ways {
			t.Run(id+"/"+name, func(t *testing.T) {
				w := newWorld(t)
				harm(w)
				for _, r := range w.results() {
					want := Pass
					if r.Control.ID == id {
						want = Fail
					}
					if r.Outcome != want || len(r.Evidence) == 0 {
						t.Errorf("%s: %s %q, want %s", r.Control.ID, r.Outcome, r.Evidence, want)
					}
				}
			})
		}
	}
}

// TestContainersOfRund: who does not know a node's containers judges none of them; a
// node without one has passed; and one whose rund cannot tell has not.
func TestContainersOfRund(t *testing.T) {
	w := newWorld(t)
	n, err := findNode(w.path("run"), w.path("proc"))
	if err != nil {
		t.Fatal(err)
	}
	all := some(All(), func(c Control) bool { return c.By == ByRund && c.ID != "lock-kept" })
	if got := Run(t.Context(), all, n); len(all) == 0 || len(got) != 0 {
		t.Errorf("%d controls of rund's: %v", len(all), got)
	}
	for _, c := range []struct {
		containers func() ([]Container, error)
		want       Outcome
	}{
		{func() ([]Container, error) { return nil, nil }, Pass},
		{func() ([]Container, error) { return nil, errors.New("containerd is away") }, Error},
		// One that ended before it was looked at.
		{func() ([]Container, error) { return []Container{{Task: "t9", PID: 999}}, nil }, Pass},
	} {
		n.Containers, n.Lock = c.containers, func() Lock { return w.lock }
		for _, r := range Run(t.Context(), all, n) {
			if r.Outcome != c.want {
				t.Errorf("%s: %s %q, want %s", r.Control.ID, r.Outcome, r.Evidence, c.want)
			}
		}
	}
}

// TestWithoutLock: where there is no deployment lock, nothing is said of it, but that
// somebody means the node to have one.
func TestWithoutLock(t *testing.T) {
	w := newWorld(t)
	w.lock.On = false
	w.task.Unsigned = "of no meaning"
	want := func(id string, outcome Outcome) {
		t.Helper()
		for _, r := range w.results() {
			if r.Control.ID == id && r.Outcome != outcome {
				t.Errorf("%s: %s %q, want %s", id, r.Outcome, r.Evidence, outcome)
			}
		}
	}
	want("containers-signed", NotApplicable)
	want("lock-kept", Pass)
	w.lock.Changed = "rund/lock was changed"
	want("lock-kept", Fail)

	c := sound()
	for i := range c.Members {
		c.Members[i].Lock, c.Members[i].Waits = "", false
	}
	c.ImageRules = nil
	for _, r := range RunCluster(t.Context(), All(), c) {
		if (r.Control.ID == "lock-agreed" || r.Control.ID == "images-signed") != (r.Outcome == NotApplicable) {
			t.Errorf("%s: %s %q", r.Control.ID, r.Outcome, r.Evidence)
		}
	}
}

// TestAway: what is not there to be looked at is an error, or of no manager.
func TestAway(t *testing.T) {
	w := newWorld(t)
	os.RemoveAll(w.path(pid("redoubt-keyd")))
	n := 0
	for _, r := range w.results() {
		if r.Outcome == Error {
			n++
		}
		if r.Outcome == Pass && strings.HasPrefix(r.Control.ID, "keyd-") {
			t.Errorf("%s passes without keyd: %q", r.Control.ID, r.Evidence)
		}
	}
	if n < 8 {
		t.Errorf("%d errors without keyd", n)
	}

	w = newWorld(t)
	os.Remove(w.path("data/keyd/state"))
	for _, r := range w.results() {
		if (r.Control.Scope == OfManager) != (r.Outcome == NotApplicable) {
			t.Errorf("%s of a worker: %s", r.Control.ID, r.Outcome)
		}
	}

	w = newWorld(t)
	os.RemoveAll(w.path(pid("redoubtd")))
	if _, err := findNode(w.path("run"), w.path("proc")); err == nil || !strings.Contains(err.Error(), "no redoubtd runs") {
		t.Errorf("without redoubtd: %v", err)
	}
	w = newWorld(t)
	w.called(905, "redoubtd", "PPid:\t1\nNSpid:\t905\n", "/system.slice/other.service")
	if _, err := findNode(w.path("run"), w.path("proc")); err == nil || !strings.Contains(err.Error(), "runs twice") {
		t.Errorf("two: %v", err)
	}
}
