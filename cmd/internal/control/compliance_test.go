package control_test

import (
	"context"
	"crypto/sha256"
	"crypto/tls"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/redoubt-cluster/redoubt/autolock/autolockpb"
	"github.com/redoubt-cluster/redoubt/autolock/keyd/keydpb"
	autolockstore "github.com/redoubt-cluster/redoubt/autolock/store"
	"github.com/redoubt-cluster/redoubt/cmd/internal/control"
	"github.com/redoubt-cluster/redoubt/cmd/internal/control/controlpb"
	"github.com/redoubt-cluster/redoubt/cmd/internal/control/events"
	"github.com/redoubt-cluster/redoubt/cmd/internal/outside"
	"github.com/redoubt-cluster/redoubt/internal/checkpoint"
	"github.com/redoubt-cluster/redoubt/internal/ident"
	"github.com/redoubt-cluster/redoubt/mesh/meshpb"
	"github.com/redoubt-cluster/redoubt/pki"
	"github.com/redoubt-cluster/redoubt/pki/audit/auditpb"
	"github.com/redoubt-cluster/redoubt/pki/pkipb"
	"github.com/redoubt-cluster/redoubt/pki/profile/profilepb"
	pkistore "github.com/redoubt-cluster/redoubt/pki/store"
	"github.com/redoubt-cluster/redoubt/raftstore"
	"github.com/redoubt-cluster/redoubt/raftstore/auditlog"
	"github.com/redoubt-cluster/redoubt/scheduler/dispatcher"
	"github.com/redoubt-cluster/redoubt/scheduler/lock"
	"github.com/redoubt-cluster/redoubt/scheduler/schedulerpb"
	"github.com/redoubt-cluster/redoubt/scheduler/schedulertest"
	schedstore "github.com/redoubt-cluster/redoubt/scheduler/store"
	"github.com/redoubt-cluster/redoubt/scheduler/taskpb"
	checks "github.com/redoubt-cluster/redoubt/threatmodel/control"
)

// alone is a manager without others.
type alone struct{}

func (alone) Others() []string { return nil }
func (alone) Ask(context.Context, string, uint64, bool) (*controlpb.ManagerRecords, error) {
	return nil, errors.New("nobody is there")
}

// judged is a world in which all is well that can be with one manager.
type judged struct {
	*world
	skews  map[string]time.Duration
	locked bool
	checks control.NodeChecks
	// records are the other managers; nil: there are none.
	records control.RecordsOf
	keyd    reportKeyd
}

func newJudged(t *testing.T) *judged {
	w := emptyJudged(t)
	w.record(auditpb.Outcome_OUTCOME_DONE, "backup.create")
	w.record(auditpb.Outcome_OUTCOME_DONE, "service.create")
	w.create(w.fit("web"))
	w.network(&meshpb.NetworkSpec{Name: "front"})
	if _, err := w.secret("key", kindFile); err != nil {
		t.Fatal(err)
	}
	w.mint(func(*controlpb.CreateTokenRequest) {})
	return w
}

// emptyJudged has neither services nor a backup.
func emptyJudged(t *testing.T) *judged {
	w := &judged{world: newWorld(t)}
	w.lookedAt(nil)
	w.slots(&keydpb.Slot{Id: ident.New(), Kind: keydpb.SlotKind_SLOT_KIND_OPERATOR, CreatedAt: time.Now().Unix()})
	schedulertest.Update(t, w.store, func(tx *raftstore.Tx) error {
		for _, der := range append(w.ca.Cluster().GetRoots(), w.ca.Cluster().GetIssuers()...) {
			sum := sha256.Sum256(der)
			if err := pkistore.RevocationLists.Put(tx, &pkipb.RevocationList{Id: hex.EncodeToString(sum[:]), NextUpdate: time.Now().Add(24 * time.Hour).Unix()}); err != nil {
				return err
			}
		}
		return nil
	})
	w.sessions[1].Clock = &schedulerpb.ClockOffset{}
	for i := range w.sessions {
		w.sessions[i].Trusts = pki.HashesOf(w.ca.Cluster().GetRoots())
	}
	w.record(auditpb.Outcome_OUTCOME_DONE, "cluster.create")
	log, err := w.store.Records()
	if err != nil {
		t.Fatal(err)
	}
	root, err := log.Root(1)
	if err != nil {
		t.Fatal(err)
	}
	w.checkpoint(func(c *pkipb.AuditCheckpoint) {
		c.Size, c.Note = 1, checkpoint.Note(checkpoint.Checkpoint{Cluster: w.ca.ClusterID, Incarnation: 1, Size: 1, Root: root})
	})
	for _, id := range []string{w.manager, w.worker} {
		w.describe(id, func(d *schedulerpb.NodeDescription) {
			d.RedoubtVersion, d.SlotEpoch, d.StoreKey = "1.2.3", 1, &schedulerpb.StoreKeyState{Epoch: 1, MadeAt: time.Now().Unix()}
		})
	}
	return w
}

// lookedAt has a server answer that looks at managers so; nil: it does not.
func (w *judged) lookedAt(look func(ctx context.Context, nodeID, addr string) (*outside.Seen, error)) {
	if w.records == nil {
		w.records = alone{}
	}
	w.keyd.cluster, w.keyd.manager = w.ca.ClusterID, w.manager
	w.api = control.New(control.Config{Store: w.store, ClusterID: w.ca.ClusterID, Minter: w.ca, Reports: &w.keyd, Images: w.world, Logs: w.world, Workloads: w.world, Records: w.records, Mesh: &w.ends,
		Sessions: func() []dispatcher.SessionInfo { return w.sessions }, Events: events.New(w.store, slog.New(slog.DiscardHandler)), Logger: slog.New(slog.DiscardHandler),
		Look: look, Checks: w.checks, Skews: func() map[string]time.Duration { return w.skews }, Locked: func(context.Context, string, string) bool { return w.locked }})
}

// fit is a spec that nothing speaks against.
func (w *judged) fit(name string) *schedulerpb.ServiceSpec {
	sp := w.spec(name)
	sp.Task.Container.ReadOnly = true
	sp.Task.Limits = &taskpb.Resources{MemoryBytes: 1 << 30, NanoCpus: 1e9}
	return sp
}

func (w *judged) cluster(change func(*pkipb.Cluster)) {
	schedulertest.Update(w.t, w.store, func(tx *raftstore.Tx) error {
		c, err := pkistore.GetCluster(tx)
		if err != nil {
			return err
		}
		c = proto.CloneOf(c)
		change(c)
		return pkistore.Cluster.Put(tx, c)
	})
}

func (w *judged) checkpoint(change func(*pkipb.AuditCheckpoint)) {
	schedulertest.Update(w.t, w.store, func(tx *raftstore.Tx) error {
		c := &pkipb.AuditCheckpoint{Id: pkistore.CheckpointID}
		if old, ok := pkistore.AuditCheckpoints.Get(tx, c.Id); ok {
			c = proto.CloneOf(old)
		}
		change(c)
		return pkistore.AuditCheckpoints.Put(tx, c)
	})
}

func (w *judged) node(id string, change func(*pkipb.Node)) {
	schedulertest.Update(w.t, w.store, func(tx *raftstore.Tx) error {
		n, _ := pkistore.Nodes.Get(tx, id)
		n = proto.CloneOf(n)
		change(n)
		return pkistore.Nodes.Put(tx, n)
	})
}

func (w *judged) slots(slots ...*keydpb.Slot) {
	schedulertest.Update(w.t, w.store, func(tx *raftstore.Tx) error {
		rec := &autolockpb.SlotRecord{Id: autolockstore.RecordID, Set: &keydpb.SlotSet{Epoch: 1, Slots: slots}}
		if old, ok := autolockstore.Slots.Get(tx, autolockstore.RecordID); ok {
			rec.Meta = old.GetMeta()
		}
		return autolockstore.Slots.Put(tx, rec)
	})
}

func (w *judged) record(outcome auditpb.Outcome, verb string) {
	w.t.Helper()
	data, err := proto.Marshal(&auditpb.Record{Outcome: outcome, Verbs: []string{verb}})
	if err != nil {
		w.t.Fatal(err)
	}
	schedulertest.Update(w.t, w.store, func(tx *raftstore.Tx) error { return tx.Record(data) })
}

func (w *judged) mint(change func(*controlpb.CreateTokenRequest)) {
	w.t.Helper()
	tok := pki.NewToken()
	req := &controlpb.CreateTokenRequest{Role: profilepb.Role_ROLE_WORKER, Id: tok.ID(), PublicKey: tok.PublicKey()}
	change(req)
	if _, err := w.api.CreateToken(w.t.Context(), req); err != nil {
		w.t.Fatal(err)
	}
}

// run is what the controls say, "outcome: evidence" by id.
func (w *judged) run() map[string]string {
	w.t.Helper()
	s := &sink[controlpb.RunComplianceResponse]{ctx: w.t.Context()}
	if err := w.api.RunCompliance(&controlpb.RunComplianceRequest{}, s); err != nil {
		w.t.Fatal(err)
	}
	out := map[string]string{}
	for _, r := range s.pages {
		if r.GetTitle() == "" || r.GetSeverity() == "" || r.GetScope() == "" || r.GetReads() == "" || r.GetRemedy() == "" || len(r.GetEvidence()) == 0 {
			w.t.Errorf("%v", r)
		}
		out[r.GetId()] = r.GetOutcome() + ": " + strings.Join(r.GetEvidence(), "; ")
	}
	return out
}

// TestCompliance: what is in the store, and what is measured, is what the controls
// judge; each change is seen by its own control and no other.
func TestCompliance(t *testing.T) {
	long := func(r *controlpb.CreateTokenRequest) { r.LongLived = true }
	service := func(change func(*schedulerpb.ServiceSpec)) func(*judged) {
		return func(w *judged) {
			sp := w.fit("other")
			change(sp)
			w.create(sp)
		}
	}
	bind := func(source string, readOnly bool) func(*judged) {
		return service(func(sp *schedulerpb.ServiceSpec) {
			sp.Task.Container.Mounts = []*taskpb.Mount{{Type: taskpb.Mount_TYPE_BIND, Source: source, Target: "/x", ReadOnly: readOnly}}
		})
	}
	for id, c := range map[string]struct {
		harm func(*judged)
		says string
	}{
		"addresses-own": {func(w *judged) {
			schedulertest.Update(t, w.store, func(tx *raftstore.Tx) error {
				n, _ := schedstore.Nodes.Get(tx, w.worker)
				n = proto.CloneOf(n)
				n.AddressBefore, n.AddressSince = "192.0.2.9", tx.Now().UnixNano()
				return schedstore.Nodes.Put(tx, n)
			})
		}, "the session of worker-1 was replaced"},
		"audit-log-signed": {func(w *judged) {
			w.checkpoint(func(c *pkipb.AuditCheckpoint) {
				c.Dissents = []*pkipb.AuditDissent{{NodeId: w.manager, Reason: "it has another audit log", Forked: true}}
			})
		}, "manager manager-1 did not sign the audit log's first 1 records: it has another audit log"},
		"audit-witnessed": {func(w *judged) {
			schedulertest.Update(t, w.store, func(tx *raftstore.Tx) error {
				if err := pkistore.AuditWitnesses.Put(tx, &pkipb.AuditWitness{Id: "w1", SetAt: tx.Now().Unix()}); err != nil {
					return err
				}
				return pkistore.AuditWitnessed.Put(tx, &pkipb.AuditWitnessed{Id: "w1", Alarm: &pkipb.AuditWitnessAlarm{Reason: "it knows another log", At: 86400}})
			})
		}, "ALARM of witness w1 on 1970-01-02: it knows another log"},
		"ca-no-alarm": {func(w *judged) {
			w.cluster(func(c *pkipb.Cluster) {
				c.Unjournalled = []*pkipb.Unjournalled{{NodeId: w.manager, Serial: "ab", Source: "192.0.2.9", At: 86400}}
			})
		}, "manager-1 that nobody gave out was shown from 192.0.2.9 on 1970-01-02 (serial ab)"},
		"ca-not-exposed": {func(w *judged) {
			w.cluster(func(c *pkipb.Cluster) { c.Exposures = []*pkipb.Exposure{{Name: "gone-1"}} })
		}, "gone-1 left"},
		"ca-replacement-ended": {func(w *judged) { w.cluster(func(c *pkipb.Cluster) { c.Rotation = &pkipb.Rotation{BeganAt: 1} }) }, "since 1970-01-01"},
		"certificates-current": {func(w *judged) { w.cluster(func(c *pkipb.Cluster) { c.KeysetEpoch, c.TokenEpoch = 2, 1 }) }, "worker-1 is of a CA of before"},
		"certificates-valid":   {func(w *judged) { w.node(w.worker, func(n *pkipb.Node) { n.LeafNotAfter = 86400 }) }, "worker-1 ended on 1970-01-02"},
		"clocks-agree":         {func(w *judged) { w.skews = map[string]time.Duration{w.manager: -time.Minute} }, "manager-1 is off by 1m0s"},
		"external-ca-answers": {func(w *judged) {
			w.cluster(func(c *pkipb.Cluster) { c.External = &pkipb.External{Url: "https://ca.example", Failure: "no route"} })
		}, "https://ca.example certifies no worker: no route"},
		"images-signed": {func(w *judged) {
			w.setPolicy("format: 1\nrules:\n  - {name: own, images: [redoubt.test/*], unsigned: true}\n")
		}, "rule own of the image policy admits what nobody signed"},
		"join-tokens-bounded": {func(w *judged) { w.mint(long) }, "does not end"},
		"lock-agreed": {func(w *judged) {
			w.describe(w.worker, func(d *schedulerpb.NodeDescription) {
				d.Features = []*taskpb.Feature{{Name: lock.Feature, Present: true, Detail: "link 0 ab"}}
			})
			w.describe(w.manager, func(d *schedulerpb.NodeDescription) { d.Features = []*taskpb.Feature{{Name: "seccomp", Present: true}} })
		}, "manager-1 has no deployment lock"},
		"managers-drained": {func(w *judged) {
			svc := w.create(w.fit("m"))
			schedulertest.Update(t, w.store, func(tx *raftstore.Tx) error {
				rec, _ := schedstore.Services.Get(tx, svc)
				return schedstore.PutTask(tx, &schedulerpb.Task{Id: ident.New(), ServiceId: svc, Slot: 1, NodeId: w.manager, Revision: rec.GetRevision(),
					Desired: schedstore.Running, Status: &schedulerpb.TaskStatus{State: schedstore.Running}})
			})
		}, "manager manager-1 runs 1 tasks"},
		"managers-store-keys": {func(w *judged) {
			w.describe(w.manager, func(d *schedulerpb.NodeDescription) { d.StoreKey.Trouble = "the disk is full" })
		}, "the disk is full"},
		"networks-in-mesh": {func(w *judged) {
			w.network(&meshpb.NetworkSpec{Name: "lan", Driver: "cni", Options: map[string]string{"conflist": "lan"}})
		}, "network lan is of driver cni"},
		"nodes-same-version": {func(w *judged) {
			w.describe(w.worker, func(d *schedulerpb.NodeDescription) { d.RedoubtVersion = "1.2.2" })
		}, "worker-1: version 1.2.2"},
		"revocation-lists-current": {func(w *judged) {
			schedulertest.Update(t, w.store, func(tx *raftstore.Tx) error {
				return pkistore.RevocationLists.Put(tx, &pkipb.RevocationList{Id: strings.Repeat("ab", 32), NextUpdate: 86400})
			})
		}, "CA abababababababab ended on 1970-01-02"},
		"services-memory-bounded":   {service(func(sp *schedulerpb.ServiceSpec) { sp.Task.Limits.MemoryBytes = 0 }), "tasks of other"},
		"services-cpu-bounded":      {service(func(sp *schedulerpb.ServiceSpec) { sp.Task.Limits.NanoCpus = 0 }), "tasks of other"},
		"services-read-only":        {service(func(sp *schedulerpb.ServiceSpec) { sp.Task.Container.ReadOnly = false }), "containers of other"},
		"services-mounts-harmless":  {bind("/etc/ssh", true), "other have /etc/ssh"},
		"services-mounts-read-only": {bind("/srv/data", false), "other write to /srv/data"},
		"services-ports-high": {service(func(sp *schedulerpb.ServiceSpec) {
			sp.Task.Ports = []*taskpb.Port{{Published: 80, Target: 80, Mode: taskpb.Port_MODE_HOST, HostIp: "192.0.2.1"}}
		}), "port 80"},
		"services-ports-addressed": {service(func(sp *schedulerpb.ServiceSpec) {
			sp.Task.Ports = []*taskpb.Port{{Published: 8080, Target: 80, Mode: taskpb.Port_MODE_HOST}}
		}), "port 8080 on every address"},
		"slots-current": {func(w *judged) {
			w.describe(w.manager, func(d *schedulerpb.NodeDescription) { d.SlotsLacking = map[string]string{"x": "no TPM"} })
		}, "manager-1 lacks 1"},
		"slots-no-file": {func(w *judged) {
			w.slots(&keydpb.Slot{Id: ident.New(), Kind: keydpb.SlotKind_SLOT_KIND_FILE}, &keydpb.Slot{Id: ident.New(), Kind: keydpb.SlotKind_SLOT_KIND_OPERATOR, CreatedAt: time.Now().Unix()})
		}, "autolock is off"},
		"slots-renewed": {func(w *judged) {
			w.slots(&keydpb.Slot{Id: ident.New(), Kind: keydpb.SlotKind_SLOT_KIND_OPERATOR, Name: "safe", CreatedAt: 86400})
		}, "unlock slot safe is"},
	} {
		t.Run(id, func(t *testing.T) {
			w := newJudged(t)
			before := w.run()
			c.harm(w)
			after := w.run()
			if got := after[id]; !strings.HasPrefix(got, "fail: ") || !strings.Contains(got, c.says) {
				t.Errorf("%q, want %q", got, c.says)
			}
			for other, was := range before {
				if got, _, _ := strings.Cut(after[other], ":"); other != id && got != strings.SplitN(was, ":", 2)[0] && got != "pass" {
					t.Errorf("%s was %q, and is %q", other, was, after[other])
				}
			}
		})
	}
}

// TestWhatALeaderKept: what one that was taken over left beside the audit log, which has
// no record, neither passes for a signature of the log nor for a witness's word.
func TestWhatALeaderKept(t *testing.T) {
	const far = 4102444800 // 2100
	w := newJudged(t)
	log, err := w.store.Records()
	if err != nil {
		t.Fatal(err)
	}
	root, err := log.Root(1)
	if err != nil {
		t.Fatal(err)
	}
	o := newOutsider(t, "witness.example/w1")
	good := checkpoint.Checkpoint{Cluster: w.ca.ClusterID, Incarnation: 1, Size: 1, Root: root}
	more, other := good, good
	more.Size, other.Root = 1<<40, [32]byte{1}
	said := func(l *pkipb.AuditWitnessed) {
		schedulertest.Update(t, w.store, func(tx *raftstore.Tx) error {
			if l.Id = o.name; pkistore.AuditWitnesses.Count(tx) == 0 {
				if err := pkistore.AuditWitnesses.Put(tx, &pkipb.AuditWitness{Id: o.name, Key: o.vkey(), SetAt: tx.Now().Unix() - 3600}); err != nil {
					return err
				}
			}
			if old, ok := pkistore.AuditWitnessed.Get(tx, o.name); ok {
				l.Meta = old.GetMeta()
			}
			return pkistore.AuditWitnessed.Put(tx, l)
		})
	}
	now := time.Now().Unix()
	said(&pkipb.AuditWitnessed{Note: checkpoint.Note(good), Line: o.line(good, now), Incarnation: 1, Size: 1, At: now})
	if got := w.run(); !strings.HasPrefix(got["audit-witnessed"], "pass") || !strings.HasPrefix(got["audit-log-signed"], "pass") {
		t.Fatal(got["audit-witnessed"], got["audit-log-signed"])
	}
	for name, l := range map[string]*pkipb.AuditWitnessed{
		"more than there is":   {Note: checkpoint.Note(more), Line: o.line(more, far), Incarnation: 1, Size: more.Size, At: far},
		"of other records":     {Note: checkpoint.Note(other), Line: o.line(other, far), Incarnation: 1, Size: 1, At: far},
		"by nobody":            {Note: checkpoint.Note(good), Line: "— w AAAA\n", Incarnation: 1, Size: 1, At: far},
		"of more than it says": {Note: checkpoint.Note(good), Line: o.line(good, now), Incarnation: 1, Size: 1 << 40, At: far},
	} {
		said(l)
		if got := w.run()["audit-witnessed"]; !strings.HasPrefix(got, "fail: ALARM") {
			t.Errorf("a cosignature %s: %s", name, got)
		}
	}
	// Of what was dropped within a segment the witness's key alone tells.
	set := &pkipb.AuditWitness{Id: o.name, Key: o.vkey()}
	for line, good := range map[string]bool{o.line(other, now): true, o.line(good, now): false} {
		c, at, err := control.CosignedBy(set, &pkipb.AuditWitnessed{Note: checkpoint.Note(other), Line: line, Size: 1}, log, 2)
		if (err == nil) != good || good && (c != other || at.Unix() != now) {
			t.Errorf("of dropped records: %+v at %s, %v", c, at, err)
		}
	}
	for name, c := range map[string]*pkipb.AuditCheckpoint{
		"more than there is": {Size: more.Size, Note: checkpoint.Note(more)},
		"of other records":   {Size: 1, Note: checkpoint.Note(other)},
		"no note":            {Size: 1 << 40, Note: []byte("x")},
		"nothing at all":     {Size: 1},
	} {
		w.checkpoint(func(kept *pkipb.AuditCheckpoint) { kept.Size, kept.Note = c.Size, c.Note })
		if got := w.run()["audit-log-signed"]; !strings.HasPrefix(got, "fail: what is kept as the newest checkpoint is none") {
			t.Errorf("a checkpoint %s: %s", name, got)
		}
	}
}

// TestComplianceAsItIs: that no manager votes (the store is of none of them) and that
// the issuing CA is old is what is wrong, and nothing else.
func TestComplianceAsItIs(t *testing.T) {
	w := newJudged(t)
	want := map[string]string{"ca-life": "fail: the issuing CA signs since", "managers-quorum": "fail: manager manager-1 has no vote; 0 managers vote", "managers-spread": "not-applicable: ", "managers-certificates-shown": "not-applicable: ",
		"managers-quantum-safe": "not-applicable: ", "managers-refuse-strangers": "not-applicable: ", "external-ca-answers": "not-applicable: ",
		"audit-witnessed": "not-applicable: ", "images-signed": "not-applicable: ", "lock-agreed": "not-applicable: "}
	for _, c := range checks.All() {
		if !c.OfCluster() {
			want[c.ID] = "error: not judged: nobody asks nodes here"
		}
	}
	for id, got := range w.run() {
		if prefix, ok := want[id]; !strings.HasPrefix(got, prefix) || !ok && !strings.HasPrefix(got, "pass: ") {
			t.Errorf("%s: %s, want %s", id, got, want[id])
		}
	}
	w.locked, w.sessions = true, w.sessions[1:] // it has no session any more
	if got := w.run()["managers-quorum"]; !strings.HasPrefix(got, "fail: manager manager-1 is locked") {
		t.Errorf("one that says that it is locked: %s", got)
	}

	empty := newWorld(t)
	err := empty.api.RunCompliance(&controlpb.RunComplianceRequest{}, &sink[controlpb.RunComplianceResponse]{ctx: t.Context()})
	if err == nil || !strings.Contains(err.Error(), "no slot record") {
		t.Errorf("a store without slots: %v", err)
	}
	s := deaf{&sink[controlpb.RunComplianceResponse]{ctx: t.Context()}}
	if err := w.api.RunCompliance(&controlpb.RunComplianceRequest{}, s); !errors.Is(err, io.ErrClosedPipe) {
		t.Errorf("nobody listens: %v", err)
	}
}

// TestManagersAreLookedAt: what was seen of a manager is held against its record.
func TestManagersAreLookedAt(t *testing.T) {
	w := newJudged(t)
	other := w.ca.NewNode(t, profilepb.Role_ROLE_MANAGER)
	w.node(w.manager, func(n *pkipb.Node) { n.LeafSpki = other.Record.GetLeafSpki() })
	ids := []string{"managers-certificates-shown", "managers-quantum-safe", "managers-refuse-strangers"}
	for name, c := range map[string]struct {
		seen *outside.Seen
		err  error
		want []string
	}{
		"well": {&outside.Seen{Group: tls.X25519MLKEM768, Shown: other.Leaf()}, nil, []string{"pass: 1", "pass: 1", "pass: 1"}},
		"another": {&outside.Seen{Group: tls.X25519, Shown: w.ca.NewNode(t, profilepb.Role_ROLE_MANAGER).Leaf(), Admitted: []string{"anybody"}}, nil,
			[]string{"fail: manager manager-1 shows a certificate whose key is not on record", "fail: manager manager-1 agreed on X25519", "fail: manager manager-1 answers anybody"}},
		"away": {nil, errors.New("no\nroute"), []string{"error: manager manager-1 could not be looked at: no route", "error: ", "error: "}},
	} {
		w.lookedAt(func(_ context.Context, nodeID, addr string) (*outside.Seen, error) {
			if nodeID != w.manager || addr != "manager-1:2377" {
				t.Errorf("%s at %s is looked at", nodeID, addr)
			}
			return c.seen, c.err
		})
		got := w.run()
		for i, id := range ids {
			if !strings.HasPrefix(got[id], c.want[i]) {
				t.Errorf("%s, %s: %q, want %q", name, id, got[id], c.want[i])
			}
		}
	}
}

// TestSilentManagerAgreesWithNobody: one that answers without a root is named.
func TestSilentManagerAgreesWithNobody(t *testing.T) {
	w := newJudged(t)
	w.records = others{"silent": auditlog.Log{}} // of no record at all
	w.lookedAt(nil)
	if got := w.run()["audit-log-agreed"]; !strings.HasPrefix(got, "fail: manager silent: gave no root of ") {
		t.Error(got)
	}
}

// deaf is a caller that went away.
type deaf struct {
	*sink[controlpb.RunComplianceResponse]
}

func (deaf) Send(*controlpb.RunComplianceResponse) error { return io.ErrClosedPipe }

// TestBackupIsLookedFor: also behind other records, and one that was refused is none.
func TestBackupIsLookedFor(t *testing.T) {
	w := newJudged(t)
	for i := range 20 {
		w.record(auditpb.Outcome_OUTCOME_DONE, fmt.Sprint("verb.", i))
	}
	if got := w.run()["backup-recent"]; !strings.HasPrefix(got, "pass: ") {
		t.Error(got)
	}
	w = emptyJudged(t)
	w.record(auditpb.Outcome_OUTCOME_DENIED, "backup.create")
	w.record(auditpb.Outcome_OUTCOME_READ, "backup.create") // begun, and no more
	if got := w.run()["backup-recent"]; !strings.HasPrefix(got, "fail: no backup was made within 7 days") {
		t.Error(got)
	}
}
