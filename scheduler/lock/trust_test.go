package lock

import (
	"bytes"
	"crypto/ed25519"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/redoubt-cluster/redoubt/internal/ident"
	"github.com/redoubt-cluster/redoubt/scheduler/lock/lockpb"
	"github.com/redoubt-cluster/redoubt/scheduler/taskpb"
)

var noon = time.Unix(1_800_000_000, 0)

func spec() *taskpb.TaskSpec {
	return &taskpb.TaskSpec{Container: &taskpb.ContainerSpec{Image: "web", Digest: "sha256:1", Command: []string{"/web"}},
		Ports: []*taskpb.Port{{Published: 80, Target: 80, Mode: taskpb.Port_MODE_INGRESS}}}
}

func statement(serial int64) *lockpb.Statement {
	return &lockpb.Statement{Service: "web", Serial: serial, MaxReplicas: 2, Task: spec()}
}

func task() Task { return Task{Service: "web", Slot: 1, Spec: spec()} }

func mustSign(t *testing.T, c *Chain, s *lockpb.Statement, k ed25519.PrivateKey) *lockpb.Signed {
	t.Helper()
	out, err := Sign(c, s, k)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

func open(t *testing.T, dir string) *Trust {
	t.Helper()
	trust := Open(dir, false)
	if err := trust.Damaged(); err != nil {
		t.Fatal(err)
	}
	return trust
}

func TestTrust(t *testing.T) {
	dir := t.TempDir()
	trust := open(t, dir)
	c, keys := newChain(t, ident.New())
	if trust.On() || trust.Admit(noon, task(), nil) != nil {
		t.Error("a node without a lock refuses")
	}
	if err := trust.Admit(noon, task(), mustSign(t, c, statement(1), keys[0])); err != nil || trust.On() {
		t.Errorf("a chain that a manager brought is followed: %v", err)
	}
	if err := trust.Pin(c.HeadDigest()); err != nil || !trust.On() {
		t.Fatal(err)
	}
	if err := trust.Admit(noon, task(), nil); !isRule(err, RuleSigned) {
		t.Error(err)
	}
	trust = open(t, dir) // before any chain was seen
	if !trust.On() {
		t.Fatal("the pin is forgotten")
	}
	other, theirs := newChain(t, c.Head().GetClusterId())
	if err := trust.Admit(noon, task(), mustSign(t, other, statement(1), theirs[0])); !isRule(err, RuleChain) {
		t.Errorf("a chain without the link that was pinned: %v", err)
	}
	if err := trust.Admit(noon, task(), mustSign(t, c, statement(10), keys[2])); err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(trust.Take(c.Proto()), trust.Pin(c.HeadDigest())); err != nil {
		t.Error(err)
	}
	if !errors.Is(trust.Take(other.Proto()), ErrForked) || !errors.Is(trust.Pin(other.HeadDigest()), ErrForked) {
		t.Error("another chain took the place of the one followed")
	}
	trust = open(t, dir)
	if err := trust.Admit(noon, task(), mustSign(t, c, statement(9), keys[0])); !isRule(err, RuleVersion) {
		t.Errorf("an older one after a restart: %v", err)
	}
	if s, err := trust.Check(noon, task(), mustSign(t, c, statement(9), keys[0])); err != nil || s.GetSerial() != 9 {
		t.Errorf("what was let in before: %v", err)
	}

	// Links: two of three sign, and whoever lost their key signs nothing more.
	grown := cosign(t, extend(t, c, &lockpb.Link{Threshold: 1, Keys: []*lockpb.Key{PublicKey(keys[1].Public().(ed25519.PublicKey))}, VoidBefore: 20}), keys[1], keys[2])
	forked := cosign(t, extend(t, c, &lockpb.Link{Threshold: 1, Keys: []*lockpb.Key{PublicKey(keys[0].Public().(ed25519.PublicKey))}}), keys[0], keys[2])
	if err := trust.Take(extend(t, c, &lockpb.Link{Ends: true}).Proto()); !isRule(err, RuleChain) {
		t.Errorf("an end that nobody signed: %v", err)
	}
	if err := trust.Take(grown.Proto()); err != nil {
		t.Fatal(err)
	}
	if !errors.Is(trust.Take(forked.Proto()), ErrForked) {
		t.Error("a fork is followed")
	}
	if err := trust.Take(c.Proto()); err != nil || len(trust.State().GetChain().GetLinks()) != 2 {
		t.Errorf("a beginning of the chain took its place: %v", err)
	}
	for rule, signed := range map[Rule]*lockpb.Signed{
		RuleSignature: mustSign(t, c, statement(30), keys[0]),
		RuleRetired:   mustSign(t, grown, statement(19), keys[1]),
		"":            mustSign(t, c, statement(30), keys[1]),
	} {
		if err := trust.Admit(noon, task(), signed); (rule != "" || err != nil) && !isRule(err, rule) {
			t.Errorf("%q: %v", rule, err)
		}
	}
	over := cosign(t, extend(t, grown, &lockpb.Link{Ends: true}), keys[1])
	if err := trust.Take(over.Proto()); err != nil || trust.On() || trust.Admit(noon, task(), nil) != nil {
		t.Errorf("the lock does not end: %v", err)
	}
	if err := trust.Forget(); err != nil || trust.On() || len(trust.State().GetSerials()) > 0 {
		t.Error(err)
	}
	if err := errors.Join(trust.Forget(), trust.Take(other.Proto())); err != nil || !trust.On() {
		t.Error(err)
	}
	if fi, err := os.Stat(filepath.Join(dir, file)); err != nil || fi.Mode().Perm() != 0o600 {
		t.Errorf("%v, %v", fi.Mode(), err)
	}
}

// TestRefused changes one thing at a time of a task that may run.
func TestRefused(t *testing.T) {
	c, keys := newChain(t, ident.New())
	elsewhere, others := newChain(t, ident.New())
	trust := open(t, t.TempDir())
	if err := trust.Take(c.Proto()); err != nil {
		t.Fatal(err)
	}
	sign := func(f func(*lockpb.Statement)) *lockpb.Signed {
		s := statement(100)
		f(s)
		return mustSign(t, c, s, keys[0])
	}
	good := sign(func(*lockpb.Statement) {})
	if err := trust.Admit(noon, task(), good); err != nil {
		t.Fatal(err)
	}
	for what, change := range map[string]func(*Task, *taskpb.ContainerSpec){
		"image":       func(_ *Task, c *taskpb.ContainerSpec) { c.Digest = "sha256:2" },
		"command":     func(_ *Task, c *taskpb.ContainerSpec) { c.Command = []string{"/bin/sh"} },
		"arguments":   func(_ *Task, c *taskpb.ContainerSpec) { c.Args = []string{"-c"} },
		"environment": func(_ *Task, c *taskpb.ContainerSpec) { c.Env = []string{"A=b"} },
		"user":        func(_ *Task, c *taskpb.ContainerSpec) { c.User = "0" },
		"mount":       func(_ *Task, c *taskpb.ContainerSpec) { c.Mounts = []*taskpb.Mount{{Source: "/"}} },
		"secret":      func(_ *Task, c *taskpb.ContainerSpec) { c.Secrets = []*taskpb.FileUse{{Source: "x"}} },
		"config":      func(_ *Task, c *taskpb.ContainerSpec) { c.Configs = []*taskpb.FileUse{{Source: "x"}} },
		"healthcheck": func(_ *Task, c *taskpb.ContainerSpec) {
			c.Healthcheck = &taskpb.Healthcheck{Test: []string{"CMD", "x"}}
		},
		"network":  func(t *Task, _ *taskpb.ContainerSpec) { t.Spec.Networks = []*taskpb.NetworkUse{{Network: "x"}} },
		"identity": func(t *Task, _ *taskpb.ContainerSpec) { t.Spec.Identity = &taskpb.Identity{Files: "/x"} },
		"host port": func(t *Task, _ *taskpb.ContainerSpec) {
			t.Spec.Ports = append(t.Spec.Ports, &taskpb.Port{Mode: taskpb.Port_MODE_HOST, Published: 22})
		},
		"limits":     func(t *Task, _ *taskpb.ContainerSpec) { t.Spec.Limits = &taskpb.Resources{Pids: 1} },
		"constraint": func(t *Task, _ *taskpb.ContainerSpec) { t.Spec.Constraints = []string{"node.role==worker"} },
		"nothing":    func(t *Task, _ *taskpb.ContainerSpec) { t.Spec = nil },
	} {
		task := task()
		change(&task, task.Spec.GetContainer())
		if err := trust.Admit(noon, task, good); !isRule(err, RuleSpec) {
			t.Errorf("another %s: %v", what, err)
		}
	}
	forced := task()
	forced.Spec.Force, forced.Spec.Platforms, forced.Spec.Ports[0].Published = 3, []string{"linux/amd64"}, 81
	if err := trust.Admit(noon, forced, good); err != nil {
		t.Errorf("what decides nothing: %v", err)
	}
	for _, x := range []struct {
		rule   Rule
		task   func(*Task)
		signed *lockpb.Signed
	}{
		{RuleSigned, nil, nil},
		{RuleChain, nil, &lockpb.Signed{Statement: good.Statement}},
		{RuleChain, nil, mustSign(t, elsewhere, statement(100), others[0])},
		{RuleSigned, nil, &lockpb.Signed{Chain: good.Chain}},
		{RuleSigned, nil, &lockpb.Signed{Chain: good.Chain, Statement: &lockpb.Envelope{Signatures: good.Statement.Signatures}}},
		{RuleSignature, nil, &lockpb.Signed{Chain: good.Chain, Statement: &lockpb.Envelope{Payload: good.Statement.Payload}}},
		{RuleSignature, nil, &lockpb.Signed{Chain: good.Chain, Statement: &lockpb.Envelope{Payload: append(bytes.Clone(good.Statement.Payload), 0x48, 1), Signatures: good.Statement.Signatures}}},
		{RuleSignature, nil, &lockpb.Signed{Chain: good.Chain, Statement: &lockpb.Envelope{Payload: good.Statement.Payload, Signatures: append(good.Statement.Signatures, good.Statement.Signatures...)}}},
		{RuleSignature, nil, &lockpb.Signed{Chain: good.Chain, Statement: c.Proto().Links[0]}},
		{RuleService, func(t *Task) { t.Service = "db" }, good},
		{RuleReplicas, func(t *Task) { t.Slot = 3 }, good},
		{RuleReplicas, func(t *Task) { t.Slot = 0 }, good},
		{RuleReplicas, nil, sign(func(s *lockpb.Statement) { s.Global = true })},
		{RuleExpired, nil, sign(func(s *lockpb.Statement) { s.NotAfter = noon.Unix() })},
		{RuleExpired, nil, sign(func(s *lockpb.Statement) { s.Serial = noon.Add(25 * time.Hour).UnixMilli() })},
		{RuleExpired, nil, sign(func(s *lockpb.Statement) { s.Serial = 0 })},
		{RuleSpec, nil, sign(func(s *lockpb.Statement) { s.ProtoReflect().SetUnknown([]byte{0x78, 1}) })},
		{RuleSpec, nil, sign(func(s *lockpb.Statement) { s.Task = nil })},
	} {
		task := task()
		if x.task != nil {
			x.task(&task)
		}
		if err := trust.Admit(noon, task, x.signed); !isRule(err, x.rule) {
			t.Errorf("rule %s: %v", x.rule, err)
		}
	}
	foreign := statement(100)
	foreign.ClusterId = ident.New()
	b, _ := proto.Marshal(foreign)
	e := &lockpb.Envelope{Payload: b, Signatures: []*lockpb.Signature{signStatement(b, keys[0])}}
	if err := trust.Admit(noon, task(), &lockpb.Signed{Chain: good.Chain, Statement: e}); !isRule(err, RuleCluster) {
		t.Error(err)
	}
}

func signStatement(b []byte, k ed25519.PrivateKey) *lockpb.Signature {
	return sign(statementLabel, b, k)
}

func TestFiles(t *testing.T) {
	signed := &lockpb.Statement{Serial: 5, Configs: []*lockpb.Config{NewConfig("app", true, []byte("a"))}, Secrets: []string{"token", "key"}, Labels: map[string]string{"x": "y"}}
	of := func(f func(*Contents)) Contents {
		c := Contents{[]*lockpb.Config{NewConfig("app", true, []byte("a"))}, []string{"token", "key"}, map[string]string{"x": "y"}}
		f(&c)
		return c
	}
	good := of(func(*Contents) {})
	if err := errors.Join(CheckFiles(signed, good), CheckDelivered(signed, good.Digest())); err != nil {
		t.Error(err)
	}
	for what, f := range map[string]func(*Contents){
		"content":           func(c *Contents) { c.Configs[0].Digest = ConfigDigest([]byte("b")) },
		"name":              func(c *Contents) { c.Configs[0].Name = "b" },
		"kind":              func(c *Contents) { c.Configs[0].Template = false },
		"no config":         func(c *Contents) { c.Configs = nil },
		"one more":          func(c *Contents) { c.Configs = append(c.Configs, c.Configs[0]) },
		"secrets exchanged": func(c *Contents) { c.Secrets = []string{"key", "token"} },
		"no secret":         func(c *Contents) { c.Secrets = nil },
		"labels":            func(c *Contents) { c.Labels = nil },
	} {
		c := of(f)
		if err := CheckFiles(signed, c); !isRule(err, RuleConfig) && !isRule(err, RuleService) {
			t.Errorf("%s: %v", what, err)
		}
		if err := CheckDelivered(signed, c.Digest()); !isRule(err, RuleConfig) {
			t.Errorf("%s, delivered before: %v", what, err)
		}
	}
	if err := CheckDelivered(signed, nil); !isRule(err, RuleConfig) {
		t.Errorf("files from before the lock: %v", err)
	}
	if err := CheckOlder(signed, 6); !isRule(err, RuleVersion) {
		t.Error(err)
	}
	if err := CheckOlder(signed, 5); err != nil {
		t.Error(err)
	}
}

// TestDamagedState flips each byte of what a node keeps: it is never taken for no lock,
// and who may say whom to trust says it anew.
func TestDamagedState(t *testing.T) {
	dir := t.TempDir()
	c, keys := newChain(t, ident.New())
	trust := open(t, dir)
	signed := mustSign(t, c, statement(5), keys[0])
	if err := errors.Join(trust.Take(c.Proto()), trust.Admit(noon, task(), signed)); err != nil {
		t.Fatal(err)
	}
	raw, err := os.ReadFile(filepath.Join(dir, file))
	if err != nil {
		t.Fatal(err)
	}
	refuses := func(what string) *Trust {
		trust := Open(dir, false)
		if trust.Damaged() == nil || !trust.On() {
			t.Fatalf("%s: opened", what)
		}
		for _, s := range []*lockpb.Signed{nil, signed} {
			if err := trust.Admit(noon, task(), s); !isRule(err, RuleState) {
				t.Fatalf("%s: %v", what, err)
			}
		}
		if trust.Pin(c.HeadDigest()) == nil {
			t.Errorf("%s: a pin takes its place", what)
		}
		return trust
	}
	for i := range raw {
		bad := bytes.Clone(raw)
		bad[i] ^= 0x10
		if err := os.WriteFile(filepath.Join(dir, file), bad, 0o600); err != nil {
			t.Fatal(err)
		}
		refuses(fmt.Sprintf("byte %d flipped", i))
	}
	if err := os.WriteFile(filepath.Join(dir, file), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	trust = refuses("an empty file")
	if err := errors.Join(trust.Take(c.Proto()), trust.Damaged(), trust.Admit(noon, task(), signed), open(t, dir).Damaged()); err != nil {
		t.Error(err)
	}
}

// TestRequired: a node that is to have the lock runs nothing before its root said whose
// signatures count, and believes no chain that comes along with a service.
func TestRequired(t *testing.T) {
	dir := t.TempDir()
	c, keys := newChain(t, ident.New())
	trust := Open(dir, true)
	signed := mustSign(t, c, statement(5), keys[0])
	for _, s := range []*lockpb.Signed{nil, signed} {
		if err := trust.Admit(noon, task(), s); !isRule(err, RuleChain) {
			t.Errorf("by nobody's word: %v", err)
		}
	}
	if !trust.On() || trust.State().GetChain() != nil {
		t.Error("a chain that a manager brought is followed")
	}
	if err := errors.Join(trust.Take(c.Proto()), trust.Admit(noon, task(), signed)); err != nil {
		t.Error(err)
	}
	if err := trust.Forget(); err != nil || !trust.On() || trust.Admit(noon, task(), signed) == nil {
		t.Errorf("forgotten, and off: %v", err)
	}
}

// TestPlaces: what a task is put on, and what clients are led to, is what was signed.
func TestPlaces(t *testing.T) {
	c, keys := newChain(t, ident.New())
	trust := open(t, t.TempDir())
	s := statement(5)
	s.Task.Networks = []*taskpb.NetworkUse{{Network: "lan"}}
	if err := trust.Take(c.Proto()); err != nil {
		t.Fatal(err)
	}
	on := func(local ...string) Task { return Task{Service: "web", Slot: 1, Spec: s.Task, Local: local} }
	if err := trust.Admit(noon, on("lan"), mustSign(t, c, s, keys[0])); err != nil {
		t.Error(err)
	}
	if err := trust.Admit(noon, on("lan", "dmz"), mustSign(t, c, s, keys[0])); !isRule(err, RuleSpec) {
		t.Errorf("another network of the node: %v", err)
	}
	if err := CheckTarget(s, 80); err != nil {
		t.Error(err)
	}
	if err := CheckTarget(s, 22); !isRule(err, RuleSpec) {
		t.Errorf("clients are led elsewhere: %v", err)
	}
}

// TestNothingIsBelievedUnwritten: a node that cannot write lets nothing newer in.
func TestNothingIsBelievedUnwritten(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "x")
	trust := open(t, dir)
	c, keys := newChain(t, ident.New())
	if err := trust.Take(c.Proto()); err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(os.RemoveAll(dir), os.WriteFile(dir, nil, 0o600)); err != nil {
		t.Fatal(err)
	}
	if err := trust.Admit(noon, task(), mustSign(t, c, statement(5), keys[0])); !isRule(err, RuleState) {
		t.Error(err)
	}
	if len(trust.State().GetSerials()) > 0 {
		t.Error("it is remembered in memory alone")
	}
}

// FuzzSigned: nothing but what was signed is admitted.
func FuzzSigned(f *testing.F) {
	keys, public := deployers(1)
	c, _ := New(ident.New(), 1, public)
	c, err := c.Sign(keys[0])
	if err != nil {
		f.Fatal(err)
	}
	good, err := Sign(c, statement(5), keys[0])
	if err != nil {
		f.Fatal(err)
	}
	b, _ := proto.Marshal(good)
	f.Add(b)
	dir := f.TempDir()
	f.Fuzz(func(t *testing.T, b []byte) {
		signed, err := Read(b)
		if err != nil {
			return
		}
		trust := open(t, dir)
		if err := trust.Take(c.Proto()); err != nil {
			t.Fatal(err)
		}
		if err := trust.Admit(noon, task(), signed); err == nil && !bytes.Equal(signed.GetStatement().GetPayload(), good.Statement.Payload) {
			t.Error("something else is admitted")
		}
	})
}
