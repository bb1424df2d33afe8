package e2e

import (
	"fmt"
	"strings"
	"testing"
	"time"
)

func damages(t *testing.T, c *cluster) {
	th := steal(t, c.host("manager-1"))
	for _, d := range []struct {
		name string
		do   func()
		code int    // of unlock; 0 only where the manager may come up, -1 where redoubtd may be away
		says string // by unlock, the status or the log
	}{
		{"the state in the middle", func() { th.flip("keyd/state", 0.5) }, 1, "state file is damaged"},
		{"the state's first byte", func() { th.flip("keyd/state", 0) }, 1, "state file is damaged"},
		{"the state's sealed key", func() { th.flip("keyd/state", 0.4) }, 1, "state file is damaged"},
		{"the state is gone", func() { th.sh("rm", th.path("data", "keyd/state")) }, 1, "keyd's directory was lost"},
		{"the journal", func() { th.flip("keyd/journal", 0.5) }, 0, "the journal was changed or damaged"},
		{"the leaf", func() { th.flip("control/leaf", 0.5) }, 3, "leaf is damaged"},
		{"the leaf's sealed key", func() {
			th.rewrite("control/leaf", func(f map[string]any) { f["sealed"] = mirrored(f["sealed"].(string)) })
		}, 3, "sealed certificate key does not open"},
		{"the leaf's certificate", func() {
			th.rewrite("control/leaf", func(f map[string]any) { f["chain"] = f["chain"].([]any)[1:] })
		}, 3, "certificate"},
		{"the boot leaf", func() { th.flip("control/boot", 0.1) }, -1, "boot is damaged"},
		{"the membership", func() { th.flip("control/member", 0.5) }, -1, "member is damaged"},
		{"the node's id", func() {
			th.rewrite("control/member", func(f map[string]any) { f["node_id"] = "aaaaaaaaaaaaaaaaaaaaaaaaaa" })
		}, 3, "keys of another node"},
		{"a log entry", th.flipEntry, 3, "does not open: it was damaged"},
	} {
		d.do()
		th.start()
		begun := time.Now()
		asksForKey := func() {
			t.Helper()
			if s := th.redoubt(nil, "status").stdout; d.code == 1 && strings.Contains(s, "run `redoubt unlock`") {
				t.Errorf("%s: the status asks for a key that cannot help: %s", d.name, s)
			}
		}
		asksForKey()
		wait := "2s" // for what will not come
		if d.code == 0 {
			wait = "1m"
		}
		r := th.redoubt(c.key(), "unlock", "--timeout", wait)
		if r.code != d.code && (d.code >= 0 || r.code == 0) || strings.Contains(r.stderr, "the key does not open") || strings.Count(strings.TrimSpace(r.stderr), "\n") > 0 {
			t.Errorf("%s: unlock: want exit %d and never a wrong key, got %v", d.name, d.code, r)
		}
		var told string
		eventually(t, 20*time.Second, func() string {
			if told = r.stderr + th.logs(); strings.Contains(told, d.says) {
				return ""
			}
			if told += th.redoubt(nil, "status").stdout; !strings.Contains(told, d.says) {
				return fmt.Sprintf("%s: nobody says %q: %s", d.name, d.says, told)
			}
			return ""
		})
		asksForKey()
		th.stop()
		th.restore()
		t.Logf("%s: exit %d after %v", d.name, r.code, time.Since(begun).Round(100*time.Millisecond))
	}
}
