package e2e

import (
	"bytes"
	"fmt"
	"maps"
	"os"
	"slices"
	"strings"
	"testing"
	"time"
)

// TestKeysInMemory looks through the memory of every daemon of a manager and of a
// worker, for every key of the manager, while it is locked, open, at work, after all
// keys were renewed, and locked: each lies where docs/keys.md says, and nowhere else.
// A build that does not overwrite what libraries copied has more in a keyd and a
// redoubtd that were opened, of the keys that docs/keys.md names, and nothing else.
//
// In each state it looks for what secrets hold, too, in every daemon of every host: in
// whatever build, no daemon has any of it while a task does.
func TestKeysInMemory(t *testing.T) {
	t.Parallel()
	c := up(t, "memory", 3, 1)
	c.load()
	const m = "manager-2"
	strict := strings.Contains(c.ok(m, "status"), "copies of keys overwritten")
	t.Logf("copies of keys are overwritten: %t", strict)
	if os.Getenv("REDOUBT_OVERWRITING") != "" && !strict {
		t.Fatal("this is no build that overwrites copies of keys")
	}

	// keyd holds these while it is open. It lends redoubtd the DEK.
	held := []string{"root key", "issuing key", "workload key", "record key", "audit key", "workload token key", "secrets master",
		"keyd key", "leaf sealing key", "DEK", "journal key"}
	open := map[string][]string{"redoubt-keyd": held, "redoubtd": {"DEK"}}
	former := map[string][]string{}
	if !strict {
		open["redoubt-keyd"] = append([]string{"KEK", "operator key"}, held...)
		former = map[string][]string{"redoubt-keyd": {"former KEK", "former operator key", "former leaf sealing key", "former root key", "former issuing key", "former workload key"}, "redoubtd": {"former DEK"}}
	}
	canaries := newMemoryCanaries(c, m)
	look := func(state string, mayBe map[string][]string, keys map[string][]byte) {
		t.Helper()
		for _, name := range []string{m, "worker-1"} {
			for daemon, pid := range c.daemons(c.host(name)) {
				found, err := inMemory(pid, keys)
				if err != nil {
					t.Fatalf("%s of %s: %v", daemon, name, err)
				}
				for _, key := range slices.Sorted(maps.Keys(found)) {
					if name != m || !slices.Contains(mayBe[daemon], key) {
						t.Errorf("%s: %s of %s has the %s %d times in its memory", state, daemon, name, key, found[key])
					}
				}
				// That something is found shows that looking finds.
				for _, key := range mayBe[daemon] {
					if name == m && found[key] == 0 && slices.Contains(held, key) && strings.HasSuffix(key, "key") && daemon == "redoubt-keyd" {
						t.Errorf("%s: the %s was not found in %s", state, key, daemon)
					}
				}
				t.Logf("%s: %s of %s: %v", state, daemon, name, found)
			}
		}
		canaries.nowhere(state)
	}
	renamed := func(keys map[string][]byte, prefix string) map[string][]byte {
		out := map[string][]byte{}
		for name, k := range keys {
			out[prefix+name] = k
		}
		return out
	}

	keys := keysOf(t, c.host(m), c.key())
	look("open since the beginning", open, keys)
	c.lab("stop", m)
	c.lab("start", m)
	eventually(t, time.Minute, func() string {
		if r := c.on(m, "status"); r.code != 4 {
			return r.String()
		}
		return ""
	})
	look("locked", nil, keys)
	c.unlock(m)
	eventually(t, time.Minute, func() string { return c.serves(m) })
	look("opened", open, keys)
	for i := range 20 {
		c.ok(m, "service", "create", "--detach", "--name", fmt.Sprintf("work-%d", i), "--replicas", "1", image)
	}
	canaries.change()
	look("after use", open, keys)

	old := renamed(keys, "former ")
	for _, kept := range []string{"record key", "audit key", "workload token key", "secrets master", "keyd key", "journal key"} {
		delete(old, "former "+kept) // what is renewed here leaves them
	}
	managers := []string{"manager-1", "manager-2", "manager-3"}
	c.rotate("manager-1")
	eventually(t, time.Minute, func() string { return c.storeKeys(managers, 2) })
	c.ok("manager-1", "ca", "rotate", "--root")
	now := keysOf(t, c.host(m), c.key())
	for name, k := range old {
		if bytes.Equal(now[strings.TrimPrefix(name, "former ")], k) {
			t.Fatalf("the %s is in use still: looking for it shows nothing", name)
		}
	}
	look("renewed", open, now)
	look("renewed, for what was before", former, old)
	canaries.remove()
	look("after the task ended", open, now)
}
