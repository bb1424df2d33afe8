package events_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"

	autolockstore "github.com/redoubt-cluster/redoubt/autolock/store"
	"github.com/redoubt-cluster/redoubt/cmd/internal/control/controlpb"
	"github.com/redoubt-cluster/redoubt/cmd/internal/control/events"
	"github.com/redoubt-cluster/redoubt/pki"
	"github.com/redoubt-cluster/redoubt/pki/pkipb"
	"github.com/redoubt-cluster/redoubt/pki/profile/profilepb"
	pkistore "github.com/redoubt-cluster/redoubt/pki/store"
	"github.com/redoubt-cluster/redoubt/raftstore"
	"github.com/redoubt-cluster/redoubt/scheduler/schedulerpb"
	"github.com/redoubt-cluster/redoubt/scheduler/schedulertest"
	schedstore "github.com/redoubt-cluster/redoubt/scheduler/store"
	"github.com/redoubt-cluster/redoubt/secrets/secretspb"
	secretstore "github.com/redoubt-cluster/redoubt/secrets/store"
)

// start runs a hub over a store until the test ends.
func start(t *testing.T) (*raftstore.Store, *events.Hub) {
	s := schedulertest.NewStore(t, slices.Concat(pkistore.Tables(), autolockstore.Tables(), secretstore.Tables())...)
	h := events.New(s, slog.New(slog.DiscardHandler))
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = h.Run(ctx) // ends with ctx
	}()
	t.Cleanup(func() { cancel(); <-done })
	// The hub follows from the moment on that it tells of this.
	mark := 0
	for h.Now() == 0 {
		mark++
		put(t, s, func(tx *raftstore.Tx) error {
			return pkistore.Tokens.Put(tx, &pkipb.Token{Id: fmt.Sprint("mark", mark)})
		})
	}
	return s, h
}

func put(t *testing.T, s *raftstore.Store, fn func(*raftstore.Tx) error) {
	t.Helper()
	if err := s.Update(t.Context(), fn); err != nil {
		t.Fatal(err)
	}
}

// next reads until n events of kinds other than the marks are there.
func next(t *testing.T, h *events.Hub, c events.Cursor, n int) (out []string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	for len(out) < n {
		found, to, err := h.Read(ctx, c, true)
		if err != nil {
			t.Fatalf("after %q: %v", out, err)
		}
		c = to
		for _, e := range found {
			if e.Id[:min(4, len(e.Id))] != "mark" {
				out = append(out, describe(e))
			}
		}
	}
	return out
}

func describe(e *controlpb.Event) string {
	return fmt.Sprint(e.Type, " ", e.Action, " ", e.Name, " ", e.Attributes)
}

func TestEventsTellWhatHappened(t *testing.T) {
	s, h := start(t)
	from := h.Now()
	put(t, s, func(tx *raftstore.Tx) error {
		if err := pkistore.Nodes.Put(tx, &pkipb.Node{Id: "n1", Name: "worker-1", Role: 1, TokenId: "tok"}); err != nil {
			return err
		}
		return schedstore.RegisterNode(tx, "n1", false)
	})
	put(t, s, func(tx *raftstore.Tx) error {
		return schedstore.SetNodeState(tx, "n1", schedulerpb.NodeState_NODE_STATE_READY, "", "")
	})
	id, err := schedstore.CreateService(t.Context(), s, schedulertest.Spec("web", 1))
	if err != nil {
		t.Fatal(err)
	}
	task := &schedulerpb.Task{Id: "t1", ServiceId: id, Slot: 1, Revision: 1, NodeId: "n1", Desired: schedstore.Running,
		Status: &schedulerpb.TaskStatus{State: schedulerpb.TaskState_TASK_STATE_ASSIGNED}}
	put(t, s, func(tx *raftstore.Tx) error { return schedstore.PutTask(tx, task) })
	for _, st := range []*schedulerpb.TaskStatus{
		{State: schedulerpb.TaskState_TASK_STATE_PREPARING},
		{State: schedstore.Running, ContainerId: "c"},
		{State: schedstore.Failed, ContainerId: "c", ExitCode: 3, Error: "exited with 3"},
	} {
		put(t, s, func(tx *raftstore.Tx) error { return schedstore.AdvanceTask(tx, "n1", "t1", st) })
	}
	put(t, s, func(tx *raftstore.Tx) error {
		n, _ := pkistore.Nodes.Get(tx, "n1")
		return pkistore.Nodes.Put(tx, &pkipb.Node{Meta: n.Meta, Id: "n1", Name: "worker-1", Role: 1, TokenId: "tok", Denied: true})
	})
	put(t, s, func(tx *raftstore.Tx) error {
		return secretstore.Configs.Put(tx, &secretspb.Config{Id: "c1", Spec: &secretspb.ConfigSpec{Name: "site", Data: []byte("secret enough")}})
	})
	put(t, s, func(tx *raftstore.Tx) error { return secretstore.Configs.Delete(tx, "c1") })

	put(t, s, func(tx *raftstore.Tx) error {
		if err := pkistore.Nodes.Put(tx, &pkipb.Node{Id: "n2", Name: "worker-2", Role: 1, TokenId: "tok"}); err != nil {
			return err
		}
		return schedstore.Nodes.Put(tx, &schedulerpb.Node{Id: "n2", Address: "192.0.2.1"})
	})
	for _, m := range [][2]string{{"192.0.2.2", ""}, {"192.0.2.3", ""}, {"192.0.2.1", "192.0.2.3"}} {
		put(t, s, func(tx *raftstore.Tx) error {
			return schedstore.MoveNode(tx, "n2", schedulerpb.NodeState_NODE_STATE_UNKNOWN, "", m[0], m[1])
		})
	}
	put(t, s, func(tx *raftstore.Tx) error {
		if err := pkistore.Nodes.Put(tx, &pkipb.Node{Id: "n3", Name: "worker-3", Role: 1, TokenId: "tok"}); err != nil {
			return err
		}
		return schedstore.Nodes.Put(tx, &schedulerpb.Node{Id: "n3", Address: "192.0.2.9"})
	})
	put(t, s, func(tx *raftstore.Tx) error { // where worker-2 is
		return schedstore.MoveNode(tx, "n3", schedulerpb.NodeState_NODE_STATE_READY, "", "192.0.2.1", "")
	})

	want := []string{
		"node join worker-1 map[role:worker token:tok]",
		"node ready worker-1 map[]",
		"service create web map[]",
		"task create web.1 map[node:worker-1 service:web]",
		"task running web.1 map[node:worker-1 service:web]",
		"task failed web.1 map[error:exited with 3 exit-code:3 node:worker-1 service:web]",
		"node remove worker-1 map[]",
		"config create site map[]",
		"config remove site map[]",
		"node join worker-2 map[role:worker token:tok]",
		"node address worker-2 map[address:192.0.2.2 was:192.0.2.1]",
		"node address worker-2 map[address:192.0.2.3 was:192.0.2.2]",
		"node address worker-2 map[address:192.0.2.1 replaced:192.0.2.3 was:192.0.2.3]",
		"node join worker-3 map[role:worker token:tok]",
		"node address worker-3 map[address:192.0.2.1 also:worker-2 state:ready was:192.0.2.9]",
	}
	got := next(t, h, from, len(want))
	for i := range want {
		if got[i] != want[i] {
			t.Errorf("event %d is %q, want %q", i, got[i], want[i])
		}
	}
}

func TestASlowReaderIsToldThatEventsWereDropped(t *testing.T) {
	s, h := start(t)
	from := h.Now()
	const each = 1000
	for i := range 10 { // more than are kept
		put(t, s, func(tx *raftstore.Tx) error {
			for j := range each {
				if err := pkistore.Tokens.Put(tx, &pkipb.Token{Id: fmt.Sprintf("t%d-%d", i, j)}); err != nil {
					return err
				}
			}
			return nil
		})
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	for c := h.Now(); c < from+10*each; {
		_, to, err := h.Read(ctx, c, true)
		if err != nil {
			t.Fatal(err)
		}
		c = to
	}
	found, to, err := h.Read(ctx, from, false)
	if err != nil || len(found) == 0 || found[0].Action != "events-lost" {
		t.Fatalf("read %v, %v", found, err)
	}
	if again, _, err := h.Read(ctx, to, false); err != nil || again[0].Action == "events-lost" {
		t.Errorf("told twice: %v, %v", again, err)
	}
	// Since finds by time what is kept.
	last := found[len(found)-1]
	if c := h.Since(last.At); c > to {
		t.Errorf("the events since %d begin at %d, after %d", last.At, c, to)
	}
	if h.Since(time.Now().Add(time.Hour).UnixNano()) != h.Now() {
		t.Error("something happened in the future")
	}
}

// What operators decide on machines that join is told, and what of the rules changed.
func TestAdmissionIsTold(t *testing.T) {
	s, h := start(t)
	from := h.Now()
	hash := func(b byte) []byte { return bytes.Repeat([]byte{b}, 32) }
	put(t, s, func(tx *raftstore.Tx) error {
		return errors.Join(pkistore.Cluster.Put(tx, &pkipb.Cluster{Id: pkistore.ClusterID}), pkistore.Tokens.Put(tx, &pkipb.Token{Id: "tok"}))
	})
	for _, p := range []*profilepb.AdmissionPolicy{
		{Attest: true, EkAllowed: [][]byte{hash(1)}},
		{Attest: true, EkAllowed: [][]byte{hash(2)}},
		{Attest: true, EkAllowed: [][]byte{hash(2)}, ApproveManagers: true, Pcrs: []*profilepb.PCRRule{{Index: 7, Values: [][]byte{hash(3)}}}},
		nil,
	} {
		put(t, s, func(tx *raftstore.Tx) error {
			c, err := pkistore.GetCluster(tx)
			if err != nil {
				return err
			}
			c = proto.CloneOf(c)
			c.Admission = p
			return pkistore.Cluster.Put(tx, c)
		})
	}
	for i, approved := range []bool{true, false} {
		put(t, s, func(tx *raftstore.Tx) error {
			tok, _ := pkistore.Tokens.Get(tx, "tok")
			tok = proto.CloneOf(tok)
			tok.Revoked = !approved
			tok.Decision = &pkipb.JoinDecision{NodeId: fmt.Sprint("n", i), NodeName: "manager-2", Role: profilepb.Role_ROLE_MANAGER, Fingerprint: "K3QF", Source: "192.0.2.7", Approved: approved}
			return pkistore.Tokens.Put(tx, tok)
		})
	}
	// Decisions are those of machines that waited, which the store knows nothing of.
	next(t, h, from, 7)
	h.Waits(pki.PendingNode{ID: "n2", Name: "manager-3", Role: profilepb.Role_ROLE_MANAGER, TokenID: "tok", Source: "192.0.2.8", Fingerprint: "W2LM"})
	want := []string{
		"token create  map[]",
		"admission update  map[attest:off → on tpms-allowed:0 → 1]",
		"admission update  map[tpms-allowed:1 (changed)]",
		"admission update  map[approve-managers:off → on pcrs:none → 7]",
		"admission update  map[approve-managers:on → off attest:on → off pcrs:7 → none tpms-allowed:1 → 0]",
		"node approve manager-2 map[address:192.0.2.7 fingerprint:K3QF role:manager token:tok]",
		"node deny manager-2 map[address:192.0.2.7 fingerprint:K3QF role:manager token:tok]",
		"node wait manager-3 map[address:192.0.2.8 fingerprint:W2LM role:manager token:tok]",
	}
	if got := next(t, h, from, len(want)); !slices.Equal(got, want) {
		t.Errorf("%s", strings.Join(got, "\n"))
	}
}

// TestWitnessesAreTold: of witnesses of the audit log what changes is told, and no
// cosignature.
func TestWitnessesAreTold(t *testing.T) {
	s, h := start(t)
	from := h.Now()
	const name = "witness.example/w1"
	said := func(change func(*pkipb.AuditWitnessed)) {
		put(t, s, func(tx *raftstore.Tx) error {
			l := &pkipb.AuditWitnessed{Id: name}
			if old, ok := pkistore.AuditWitnessed.Get(tx, name); ok {
				l = proto.CloneOf(old)
			}
			change(l)
			return pkistore.AuditWitnessed.Put(tx, l)
		})
	}
	put(t, s, func(tx *raftstore.Tx) error {
		return pkistore.AuditWitnesses.Put(tx, &pkipb.AuditWitness{Id: name, Url: "https://w.example"})
	})
	said(func(l *pkipb.AuditWitnessed) { l.Line, l.Size = "one", 1 })
	said(func(l *pkipb.AuditWitnessed) { l.Failure = "no route" })
	said(func(l *pkipb.AuditWitnessed) { l.Failure = "it took too long" })
	said(func(l *pkipb.AuditWitnessed) { l.Failure, l.Line, l.Size = "", "two", 2 })
	said(func(l *pkipb.AuditWitnessed) {
		l.Failure, l.Alarm = "it knows another log", &pkipb.AuditWitnessAlarm{Reason: "it knows another log", Known: 9}
	})
	said(func(l *pkipb.AuditWitnessed) { l.Failure, l.Alarm = "", nil })
	put(t, s, func(tx *raftstore.Tx) error {
		return errors.Join(pkistore.AuditWitnessed.Delete(tx, name), pkistore.AuditWitnesses.Delete(tx, name))
	})
	want := []string{
		"audit-witness set witness.example/w1", "audit-witness failing witness.example/w1", "audit-witness recovered witness.example/w1",
		"audit-witness alarm witness.example/w1", "audit-witness rm witness.example/w1",
	}
	for i, got := range next(t, h, from, len(want)) {
		if !strings.HasPrefix(got, want[i]) {
			t.Errorf("%d: %s, want %s", i, got, want[i])
		}
	}
}
