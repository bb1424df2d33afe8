package e2e

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"
)

// TestKeysInMemory looks through the memory of every daemon of a manager and of a
// worker, for every key of the manager, while it is locked, open, at work, after all
// keys were renewed, and locked: each lies where docs/keys.md says, and nowhere else.
// Of a build that does not overwrite what libraries copied, keyd and redoubtd may have
// more, and the others nothing as well.
func TestKeysInMemory(t *testing.T) {
	t.Parallel()
	c := up(t, "memory", 3, 1)
	c.load()
	const m = "manager-2"
	// keyd holds these while it is open. It lends redoubtd the DEK.
	held := []string{"root key", "issuing key", "workload key", "record key", "audit key", "workload token key", "secrets master",
		"keyd key", "leaf sealing key", "DEK", "journal key"}
	mayBe := map[string][]string{"redoubt-keyd": held, "redoubtd": {"DEK"}}

	strict := strings.Contains(c.ok(m, "status"), "copies of keys overwritten")
	t.Logf("copies of keys are overwritten: %t", strict)

	look := func(state string, open bool, keys map[string][]byte) {
		t.Helper()
		for _, name := range []string{m, "worker-1"} {
			for daemon, pid := range c.daemons(c.host(name)) {
				found, err := inMemory(pid, keys)
				if err != nil {
					t.Fatalf("%s of %s: %v", daemon, name, err)
				}
				for _, key := range slices.Sorted(maps.Keys(found)) {
					if !strict && name == m && mayBe[daemon] != nil {
						continue
					}
					if name != m || !open || !slices.Contains(mayBe[daemon], key) {
						t.Errorf("%s: %s of %s has the %s %d times in its memory", state, daemon, name, key, found[key])
					}
				}
				// That something is found shows that looking finds.
				for _, key := range mayBe[daemon] {
					if name == m && open && found[key] == 0 && strings.HasSuffix(key, "key") && daemon == "redoubt-keyd" {
						t.Errorf("%s: the %s was not found in %s", state, key, daemon)
					}
				}
				t.Logf("%s: %s of %s: %v", state, daemon, name, found)
			}
		}
	}
	renamed := func(keys map[string][]byte, prefix string) map[string][]byte {
		out := map[string][]byte{}
		for name, k := range keys {
			out[prefix+name] = k
		}
		return out
	}

	keys := keysOf(t, c.host(m), c.key())
	look("open since the beginning", true, keys)
	c.lab("stop", m)
	c.lab("start", m)
	eventually(t, time.Minute, func() string {
		if r := c.on(m, "status"); r.code != 4 {
			return r.String()
		}
		return ""
	})
	look("locked", false, keys)
	c.unlock(m)
	eventually(t, time.Minute, func() string { return c.serves(m) })
	look("opened", true, keys)
	for i := range 20 {
		c.ok(m, "service", "create", "--detach", "--name", fmt.Sprintf("work-%d", i), "--replicas", "1", image)
	}
	look("after use", true, keys)

	old := renamed(keys, "former ")
	delete(old, "former root key")
	for _, kept := range []string{"issuing key", "workload key", "record key", "audit key", "workload token key", "secrets master", "keyd key", "journal key"} {
		delete(old, "former "+kept) // the rotation of the operator key leaves them
	}
	managers := []string{"manager-1", "manager-2", "manager-3"}
	c.rotate("manager-1")
	eventually(t, time.Minute, func() string { return c.storeKeys(managers, 2) })
	now := keysOf(t, c.host(m), c.key())
	look("renewed", true, now)
	look("renewed, for what was before", false, old)
}
