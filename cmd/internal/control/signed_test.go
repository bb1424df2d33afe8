package control

import (
	"crypto/ed25519"
	"errors"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/redoubt-cluster/redoubt/cmd/internal/control/apierr"
	"github.com/redoubt-cluster/redoubt/internal/ident"
	"github.com/redoubt-cluster/redoubt/scheduler/lock"
	"github.com/redoubt-cluster/redoubt/scheduler/lock/lockpb"
	"github.com/redoubt-cluster/redoubt/scheduler/schedulerpb"
	"github.com/redoubt-cluster/redoubt/scheduler/spec"
	"github.com/redoubt-cluster/redoubt/scheduler/taskpb"
)

// TestAdmitSigned: a manager says no by the rule by which nodes would.
func TestAdmitSigned(t *testing.T) {
	if believesAnything {
		t.Fatal("this build believes anything")
	}
	now := time.UnixMilli(1000)
	key, other := lock.NewSigner(), lock.NewSigner()
	chain := func(k ed25519.PrivateKey) *lock.Chain {
		c, err := lock.New(ident.New(), 1, []*lockpb.Key{lock.PublicKey(k.Public().(ed25519.PublicKey))})
		if err == nil {
			c, err = c.Sign(k)
		}
		if err != nil {
			t.Fatal(err)
		}
		return c
	}
	ours, theirs := chain(key), chain(other)
	sp := &schedulerpb.ServiceSpec{Name: "web", Mode: &schedulerpb.ServiceSpec_Replicated{Replicated: &schedulerpb.Replicated{Replicas: 2}},
		Task: &taskpb.TaskSpec{Container: &taskpb.ContainerSpec{Image: "web", Digest: "sha256:1"}}}
	sign := func(c *lock.Chain, k ed25519.PrivateKey, serial int64) *lockpb.Signed {
		s, err := lock.Sign(c, &lockpb.Statement{Service: "web", Serial: serial, MaxReplicas: 2, Task: sp.Task}, k)
		if err != nil {
			t.Fatal(err)
		}
		return s
	}
	stored := func(s *lockpb.Signed) *schedulerpb.Service {
		b, err := proto.Marshal(s)
		if err != nil {
			t.Fatal(err)
		}
		return &schedulerpb.Service{Signed: b}
	}
	changed := proto.CloneOf(sp)
	changed.Task.Container.Env = []string{"A=b"}
	more := proto.CloneOf(sp)
	more.GetReplicated().Replicas = 3
	for _, x := range []struct {
		rule lock.Rule // empty: it is let in
		sig  *lockpb.Signed
		sp   *schedulerpb.ServiceSpec
		old  *schedulerpb.Service
	}{
		{"", sign(ours, key, 5), sp, nil},
		{"", sign(ours, key, 5), sp, stored(sign(ours, key, 5))},
		{lock.RuleSigned, nil, sp, nil},
		{lock.RuleChain, sign(theirs, other, 5), sp, nil},
		{lock.RuleSpec, sign(ours, key, 5), changed, nil},
		{lock.RuleReplicas, sign(ours, key, 5), more, nil},
		{lock.RuleVersion, sign(ours, key, 5), sp, stored(sign(ours, key, 6))},
	} {
		err := admitSigned(now, ours.Proto(), x.sig, x.sp, x.old)
		if r := (*lock.Refusal)(nil); x.rule == "" && err != nil || x.rule != "" && (!errors.As(err, &r) || r.Rule != x.rule) {
			t.Errorf("rule %q: %v", x.rule, err)
		}
	}
	// What would go back by itself would go back to what nodes refuse.
	back := proto.CloneOf(sp)
	back.Update = &schedulerpb.UpdateConfig{FailureAction: spec.ActionRollback}
	if err := admitSigned(now, ours.Proto(), sign(ours, key, 5), back, nil); apierr.ReasonOf(err) != apierr.ReasonState {
		t.Errorf("a signed service that goes back by itself: %v", err)
	}
}
