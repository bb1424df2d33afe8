package lock

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/redoubt-cluster/redoubt/internal/ident"
	"github.com/redoubt-cluster/redoubt/scheduler/lock/lockpb"
)

// TestHolds: what runs is held against what is signed, by whom the node trusts now, and
// nothing is taken or remembered for that.
func TestHolds(t *testing.T) {
	trust := open(t, t.TempDir())
	c, keys := newChain(t, ident.New())
	signed := mustSign(t, c, statement(5), keys[0])
	if err := trust.Holds(noon, task()); err != nil || trust.Says() != "" {
		t.Errorf("a node without a lock: %v, %q", err, trust.Says())
	}
	if err := trust.Pin(c.HeadDigest()); err != nil {
		t.Fatal(err)
	}
	if err := trust.Holds(noon, task(), signed); !isRule(err, RuleChain) || trust.State().GetChain() != nil || trust.Says() != Waits {
		t.Errorf("before any chain was seen: %v, %q", err, trust.Says())
	}
	if err := trust.Take(c.Proto()); err != nil {
		t.Fatal(err)
	}
	other := task()
	other.Service = "other"
	for _, x := range []struct {
		what   string
		task   Task
		at     time.Time
		signed []*lockpb.Signed
		rule   Rule
	}{
		{"signed", task(), noon, []*lockpb.Signed{signed}, ""},
		{"signed, and something else beside it", task(), noon, []*lockpb.Signed{signed, mustSign(t, c, &lockpb.Statement{Service: "other", MaxReplicas: 1, Serial: 9, Task: spec()}, keys[0])}, ""},
		{"not signed", task(), noon, nil, RuleSigned},
		{"nothing that can be read", task(), noon, []*lockpb.Signed{nil}, RuleSigned},
		{"another service's", other, noon, []*lockpb.Signed{signed}, RuleService},
	} {
		if err := trust.Holds(x.at, x.task, x.signed...); x.rule == "" && err != nil || x.rule != "" && !isRule(err, x.rule) {
			t.Errorf("%s: %v, want rule %q", x.what, err, x.rule)
		}
	}
	if len(trust.State().GetSerials()) > 0 || trust.Says() != c.Summary() {
		t.Errorf("%v is remembered, %q is said", trust.State().GetSerials(), trust.Says())
	}
	// What was signed is void by a newer link, which does not come along with what runs.
	grown := cosign(t, extend(t, c, &lockpb.Link{Threshold: 1, Keys: c.Head().GetKeys(), VoidBefore: 20}), keys[1], keys[2])
	if err := trust.Holds(noon, task(), signed, mustSign(t, grown, statement(3), keys[0])); err != nil || len(trust.State().GetChain().GetLinks()) != 1 {
		t.Errorf("a link that came along is followed: %v", err)
	}
	if err := trust.Take(grown.Proto()); err != nil {
		t.Fatal(err)
	}
	if err := trust.Holds(noon, task(), signed); !isRule(err, RuleRetired) {
		t.Errorf("what was voided: %v", err)
	}
}

// TestKept: what somebody does to the file is seen before it is believed, and root who
// says whom to trust writes it anew.
func TestKept(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, file)
	trust := open(t, dir)
	c, keys := newChain(t, ident.New())
	foreign := open(t, t.TempDir())
	other, _ := newChain(t, ident.New())
	if err := errors.Join(trust.Kept(), foreign.Take(other.Proto())); err != nil {
		t.Fatal(err)
	}
	theirs, err := os.ReadFile(foreign.path)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, theirs, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := trust.Kept(); err == nil || !strings.Contains(err.Error(), "was changed") {
		t.Errorf("a lock where there is none: %v", err)
	}
	if err := errors.Join(trust.Forget(), trust.Kept(), trust.Take(c.Proto()), trust.Kept()); err != nil {
		t.Fatal(err)
	}
	if err := trust.Admit(noon, task(), mustSign(t, c, statement(7), keys[0])); err != nil {
		t.Fatal(err)
	}
	for what, harm := range map[string]func() error{
		"is gone":     func() error { return os.Remove(path) },
		"was damaged": func() error { return os.WriteFile(path, []byte("RDTN"), 0o600) },
		"was changed": func() error { return os.WriteFile(path, theirs, 0o600) },
	} {
		if err := harm(); err != nil {
			t.Fatal(err)
		}
		if err := trust.Kept(); err == nil || !strings.Contains(err.Error(), what) {
			t.Errorf("%v, want %q", err, what)
		}
		if err := errors.Join(trust.Take(c.Proto()), trust.Kept()); err != nil {
			t.Errorf("it %s: %v", what, err)
		}
		if now := open(t, dir); now.State().GetSerials()["web"] != 7 {
			t.Errorf("it %s, and %v is written anew", what, now.State())
		}
	}
}
