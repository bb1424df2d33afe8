package control_test

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"slices"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/redoubt-cluster/redoubt/autolock"
	"github.com/redoubt-cluster/redoubt/autolock/autolockpb"
	"github.com/redoubt-cluster/redoubt/autolock/keyd/keydpb"
	"github.com/redoubt-cluster/redoubt/autolock/keydclient"
	autolockstore "github.com/redoubt-cluster/redoubt/autolock/store"
	"github.com/redoubt-cluster/redoubt/cmd/internal/control"
	"github.com/redoubt-cluster/redoubt/cmd/internal/control/apierr"
	"github.com/redoubt-cluster/redoubt/cmd/internal/control/controlpb"
	"github.com/redoubt-cluster/redoubt/cmd/internal/control/events"
	"github.com/redoubt-cluster/redoubt/cmd/internal/roles"
	"github.com/redoubt-cluster/redoubt/pki"
	"github.com/redoubt-cluster/redoubt/pki/authz"
	"github.com/redoubt-cluster/redoubt/pki/authz/authzpb"
	"github.com/redoubt-cluster/redoubt/pki/pkipb"
	"github.com/redoubt-cluster/redoubt/pki/pkitest"
	"github.com/redoubt-cluster/redoubt/pki/profile"
	"github.com/redoubt-cluster/redoubt/pki/profile/profilepb"
	pkistore "github.com/redoubt-cluster/redoubt/pki/store"
	"github.com/redoubt-cluster/redoubt/raftstore"
	"github.com/redoubt-cluster/redoubt/scheduler/dispatcher"
	"github.com/redoubt-cluster/redoubt/scheduler/schedulertest"
)

// leaveWorld is a world whose managers have certified keyd keys, and a keyd of
// the test's.
type leaveWorld struct {
	*world
	second string
	keys   map[string][]byte // keyd keys by node
	// meanwhile, when set, runs while the keyset is made; fail is its answer.
	meanwhile func()
	fail      error
	skip      uint64 // added to the epoch
	asked     int
	retired   [][]byte
}

func newLeaveWorld(t *testing.T) *leaveWorld {
	w := &leaveWorld{world: newWorld(t), keys: map[string][]byte{}}
	w.second = w.addNode("manager-2", true)
	w.sessions = append(w.sessions, dispatcher.SessionInfo{NodeID: w.second})
	for _, id := range []string{w.manager, w.second} {
		w.certify(id)
	}
	schedulertest.Update(t, w.store, func(tx *raftstore.Tx) error {
		return autolockstore.Slots.Put(tx, &autolockpb.SlotRecord{Id: autolockstore.RecordID, Set: &keydpb.SlotSet{Epoch: 1, Slots: []*keydpb.Slot{newSlot()}}})
	})
	w.api = control.New(control.Config{Store: w.store, ClusterID: w.ca.ClusterID, Minter: w.ca, Rotator: w, Images: w, Logs: w, Workloads: w, KeydPatience: 1500 * time.Millisecond,
		Sessions: func() []dispatcher.SessionInfo { return w.sessions }, Events: events.New(w.store, slog.New(slog.DiscardHandler)), Logger: slog.New(slog.DiscardHandler)})
	return w
}

// change edits a node's record.
func (w *leaveWorld) change(id string, f func(*pkipb.Node)) {
	w.t.Helper()
	schedulertest.Update(w.t, w.store, func(tx *raftstore.Tx) error {
		n, _ := pkistore.Nodes.Get(tx, id)
		n = proto.CloneOf(n)
		f(n)
		return pkistore.Nodes.Put(tx, n)
	})
}

func (w *leaveWorld) certify(id string) {
	w.t.Helper()
	key, err := pkitest.KeydKey(w.t.Context())
	if err != nil {
		w.t.Fatal(err)
	}
	leafKey, err := pki.NewKey()
	if err != nil {
		w.t.Fatal(err)
	}
	chain, err := w.ca.Issue(profile.Identity{ClusterID: w.ca.ClusterID, NodeID: id, Role: profilepb.Role_ROLE_MANAGER, KeydKey: key}, leafKey.Public(), time.Now(), time.Hour)
	if err != nil {
		w.t.Fatal(err)
	}
	w.keys[id] = key
	w.change(id, func(n *pkipb.Node) { n.Leaf, n.KeysetEpoch = chain.Certificates[0], 1 })
}

// RotateKeyset is keyd.
func (w *leaveWorld) RotateKeyset(_ context.Context, stay, retired [][]byte) (*keydpb.RotateKeysetResponse, error) {
	w.asked++
	w.retired = retired
	if f := w.meanwhile; f != nil {
		w.meanwhile = nil
		f()
	}
	if w.fail != nil {
		return nil, w.fail
	}
	workload := w.ca.NextIssuer(w.t) // a CA below the root that the record does not name
	resp := &keydpb.RotateKeysetResponse{FormerWorkloadIssuer: workload.Raw, Epoch: pki.KeysetEpoch(w.cluster()) + 1 + w.skip, Issuer: w.ca.NextIssuer(w.t).Raw}
	for _, leaf := range stay {
		certs, err := profile.ParseChain(&profilepb.CertificateChain{Certificates: [][]byte{leaf}})
		if err != nil {
			return nil, err
		}
		id, err := profile.NodeFromCert(certs[0])
		if err != nil {
			return nil, err
		}
		resp.Sealed = append(resp.Sealed, &keydpb.SealedKeyset{NodeId: id.NodeID, Sealed: []byte("sealed to " + id.NodeID)})
	}
	return resp, nil
}

func (w *leaveWorld) cluster() (c *pkipb.Cluster) {
	_ = w.store.View(func(r *raftstore.ReadTx) error { c, _ = pkistore.GetCluster(r); return nil })
	return c
}

// facts are all that a leaving may change.
func (w *leaveWorld) facts() (out []proto.Message) {
	_ = w.store.View(func(r *raftstore.ReadTx) error {
		for n := range pkistore.Nodes.All(r) {
			out = append(out, n)
		}
		c, _ := pkistore.GetCluster(r)
		s, _ := autolockstore.Slots.Get(r, autolockstore.RecordID)
		out = append(out, c, s)
		for k := range autolockstore.Keysets.All(r) {
			out = append(out, k)
		}
		return nil
	})
	return out
}

func (w *leaveWorld) remove(node string, slot *keydpb.Slot) (*controlpb.RemoveNodeResponse, error) {
	return w.api.RemoveNode(w.t.Context(), &controlpb.RemoveNodeRequest{Node: node, Force: true, Slot: slot})
}

// eyes has two managers be for an invitation.
func eyes(w *leaveWorld) {
	schedulertest.Update(w.t, w.store, func(tx *raftstore.Tx) error {
		return roles.SetPolicy(tx, "eyes", `@parties("2") forbid (principal, action == Redoubt::Action::"person.invite", resource);`)
	})
}

// TestLeavingKeepsTheOperatorKey: who sends no new one, as who may take managers out and
// not rotate slots, gets none; the old one is named.
func TestLeavingKeepsTheOperatorKey(t *testing.T) {
	w := newLeaveWorld(t)
	slot := func() (s *keydpb.Slot) {
		_ = w.store.View(func(r *raftstore.ReadTx) error {
			rec, _ := autolockstore.Slots.Get(r, autolockstore.RecordID)
			s = rec.GetSet().GetSlots()[0]
			return nil
		})
		return s
	}
	before := slot()
	r, err := w.api.DemoteNode(t.Context(), &controlpb.DemoteNodeRequest{Node: "manager-2", Check: true})
	if err != nil || r.GetNoSlot() {
		t.Fatalf("%v, %v", r, err)
	}
	if r, err = w.api.DemoteNode(t.Context(), &controlpb.DemoteNodeRequest{Node: "manager-2"}); err != nil || !r.GetNoSlot() {
		t.Fatalf("%v, %v", r, err)
	}
	if rot := r.GetRotation(); rot.GetSlotEpoch() != 2 || rot.GetKeysetEpoch() != 2 || !slices.Equal(rot.GetSlotsKept(), []string{autolock.SlotName(before)}) || slot().GetId() != before.GetId() {
		t.Errorf("%v, and the slot is %v", rot, slot())
	}
}

// TestANewSlotAsksForItsVerb: whoever is to have the operator key by a manager's leaving
// must be one who may make it.
func TestANewSlotAsksForItsVerb(t *testing.T) {
	for method, c := range map[string]struct{ without, with proto.Message }{
		"Control/RemoveNode":    {&controlpb.RemoveNodeRequest{Node: "m"}, &controlpb.RemoveNodeRequest{Node: "m", Slot: &keydpb.Slot{}}},
		"Control/DemoteNode":    {&controlpb.DemoteNodeRequest{Node: "m"}, &controlpb.DemoteNodeRequest{Node: "m", Slot: &keydpb.Slot{}}},
		"Revocation/RevokeNode": {&controlpb.RevokeNodeRequest{Node: "m"}, &controlpb.RevokeNodeRequest{Node: "m", Slot: &keydpb.Slot{}}},
	} {
		for req, want := range map[proto.Message]bool{c.without: false, c.with: true} {
			acts, err := authz.ActsOf("/redoubt.control.v1."+method, req)
			if err != nil || slices.Contains(acts, authz.Act{Verb: "slot.rotate"}) != want {
				t.Errorf("%s of %v does %v (%v)", method, req, acts, err)
			}
		}
	}
}

// TestCompromisedLeavesAllTheSame: whose keys are in other hands is kept by no policy.
func TestCompromisedLeavesAllTheSame(t *testing.T) {
	w := newLeaveWorld(t)
	eyes(w)
	if _, err := w.api.RemoveNode(t.Context(), &controlpb.RemoveNodeRequest{Node: "manager-2", Compromised: true, Slot: newSlot()}); err != nil {
		t.Error(err)
	}
}

// What an operator gets wrong, and what goes wrong, is refused on a line that
// names the remedy, and changes nothing.
func TestLeavingRefusals(t *testing.T) {
	for _, tc := range []struct {
		name   string
		set    func(*leaveWorld)
		do     func(*leaveWorld) error
		reason apierr.Reason
		text   string
	}{
		{"a name that nobody has", nil, func(w *leaveWorld) error { _, err := w.remove("manger-2", newSlot()); return err }, apierr.ReasonNotFound, "manger-2"},
		{"no name", nil, func(w *leaveWorld) error { _, err := w.remove("", newSlot()); return err }, apierr.ReasonNotFound, ""},
		{"a name that two have", func(w *leaveWorld) { w.addNode("manager-2", false) }, func(w *leaveWorld) error { _, err := w.remove("manager-2", newSlot()); return err }, apierr.ReasonAmbiguous, "manager-2"},
		{"up, without --force", nil, func(w *leaveWorld) error {
			_, err := w.api.RemoveNode(t.Context(), &controlpb.RemoveNodeRequest{Node: "manager-2", Slot: newSlot()})
			return err
		}, apierr.ReasonState, "is up"},
		{"with half a slot", nil, func(w *leaveWorld) error { _, err := w.remove("manager-2", &keydpb.Slot{Id: "x"}); return err }, apierr.ReasonInvalid, ""},
		{"a worker is demoted", nil, func(w *leaveWorld) error {
			_, err := w.api.DemoteNode(t.Context(), &controlpb.DemoteNodeRequest{Node: "worker-1", Slot: newSlot()})
			return err
		}, apierr.ReasonState, "is a worker already"},
		{"by policies that need both", eyes, func(w *leaveWorld) error { _, err := w.remove("manager-2", newSlot()); return err }, apierr.ReasonState, "without manager manager-2"},
		{"demoted, by policies that need both", eyes, func(w *leaveWorld) error {
			_, err := w.api.DemoteNode(t.Context(), &controlpb.DemoteNodeRequest{Node: "manager-2", Check: true})
			return err
		}, apierr.ReasonState, "without manager manager-2"},
		{"by its own root", nil, func(w *leaveWorld) error {
			ctx := authz.NewContext(t.Context(), authz.Identity{LocalRoot: true, LocalRootOf: w.second}, authzpb.Caller_CALLER_MANAGER_LOCAL_ROOT)
			_, err := w.api.RemoveNode(ctx, &controlpb.RemoveNodeRequest{Node: "manager-2", Force: true, Slot: newSlot()})
			return err
		}, apierr.ReasonState, "another manager"},
		{"the last manager", func(w *leaveWorld) { w.change(w.manager, func(n *pkipb.Node) { n.Denied = true }) },
			func(w *leaveWorld) error { _, err := w.remove("manager-2", newSlot()); return err }, apierr.ReasonState, "last manager"},
		{"one that stays has no certificate on record", func(w *leaveWorld) { w.change(w.manager, func(n *pkipb.Node) { n.Leaf = nil }) },
			func(w *leaveWorld) error { _, err := w.remove("manager-2", newSlot()); return err }, apierr.ReasonState, "not on record yet"},
		{"keyd is gone", func(w *leaveWorld) { w.fail = errors.New("dial unix: no such file") },
			func(w *leaveWorld) error { _, err := w.remove("manager-2", newSlot()); return err }, apierr.ReasonInternal, "internal error"},
		{"too often", func(w *leaveWorld) {
			w.fail = &keydclient.Error{Code: keydpb.Code_CODE_RATE_LIMITED, Message: "too many requests of this kind: try again in 10s"}
		}, func(w *leaveWorld) error { _, err := w.remove("manager-2", newSlot()); return err }, apierr.ReasonState, "try again in half a minute"},
		{"keyd is behind", func(w *leaveWorld) { w.skip = ^uint64(0) }, func(w *leaveWorld) error { _, err := w.remove("manager-2", newSlot()); return err },
			apierr.ReasonState, "try again in a few seconds"},
		{"keyd is ahead", func(w *leaveWorld) { w.skip = 1 }, func(w *leaveWorld) error { _, err := w.remove("manager-2", newSlot()); return err },
			apierr.ReasonState, "try again in a few seconds"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			w := newLeaveWorld(t)
			if tc.set != nil {
				tc.set(w)
			}
			before := w.facts()
			wantReason(t, tc.do(w), tc.reason, tc.text)
			w.unchanged(before)
		})
	}
}

// A manager that is removed while keyd made keysets too often waits for the next one.
func TestLeavingWaitsForKeyd(t *testing.T) {
	w := newLeaveWorld(t)
	w.fail = &keydclient.Error{Code: keydpb.Code_CODE_RATE_LIMITED, Message: "too many requests of this kind: try again in 10s"}
	w.meanwhile = func() { w.meanwhile = func() { w.fail = nil } }
	if _, err := w.remove("manager-2", newSlot()); err != nil || w.asked != 2 {
		t.Errorf("keyd was asked %d times, %v", w.asked, err)
	}
}

func (w *leaveWorld) unchanged(before []proto.Message) {
	w.t.Helper()
	after := w.facts()
	for i := range before {
		if len(after) != len(before) || !proto.Equal(before[i], after[i]) {
			w.t.Fatalf("half applied: %v", after)
		}
	}
}

// Whatever changes the managers while the keyset is made ends the attempt: it is
// sealed to the wrong ones.
func TestLeavingMeetsAnother(t *testing.T) {
	for name, meanwhile := range map[string]func(*leaveWorld){
		"a manager is promoted": func(w *leaveWorld) { w.certify(w.addNode("manager-3", true)) },
		"the same one is removed": func(w *leaveWorld) {
			if _, err := w.remove("manager-2", newSlot()); err != nil {
				w.t.Error(err)
			}
		},
		"a worker is given a keyset": func(w *leaveWorld) {
			w.change(w.worker, func(n *pkipb.Node) { n.KeysetEpoch, n.GivenKeydKeys = 1, [][]byte{make([]byte, 1216)} })
		},
	} {
		t.Run(name, func(t *testing.T) {
			w := newLeaveWorld(t)
			var before []proto.Message
			w.meanwhile = func() { meanwhile(w); before = w.facts() }
			_, err := w.remove("manager-2", newSlot())
			if err == nil {
				t.Fatal("it left all the same")
			}
			wantReason(t, err, apierr.ReasonOf(err), "")
			w.unchanged(before)
		})
	}
}

// One transaction takes the node, its keys, its slot and its tokens.
func TestManagerLeaves(t *testing.T) {
	for _, demote := range []bool{false, true} {
		w := newLeaveWorld(t)
		tok := pki.NewToken()
		if _, err := pki.CreateToken(t.Context(), w.store, w.ca, pki.TokenRequest{ID: tok.ID(), PublicKey: tok.PublicKey(), Role: profilepb.Role_ROLE_WORKER}); err != nil {
			t.Fatal(err)
		}
		// A promotion that came to nothing, of a worker that stays.
		lost := bytes.Repeat([]byte{9}, 1216)
		w.change(w.worker, func(n *pkipb.Node) { n.KeysetEpoch, n.GivenKeydKeys = 1, [][]byte{lost} })
		schedulertest.Update(t, w.store, func(tx *raftstore.Tx) error {
			c, err := pkistore.GetCluster(tx)
			c = proto.CloneOf(c)
			c.External = &pkipb.External{Url: "https://ca", Issuer: []byte("issuer")}
			return errors.Join(err, pkistore.Cluster.Put(tx, c))
		})
		slot := newSlot()
		var rot *controlpb.Rotation
		if demote {
			if _, err := w.api.DemoteNode(t.Context(), &controlpb.DemoteNodeRequest{Node: "manager-2", Check: true}); err != nil || w.asked != 0 {
				t.Fatalf("asking whether it can: %v, keyd was asked %d times", err, w.asked)
			}
			r, err := w.api.DemoteNode(t.Context(), &controlpb.DemoteNodeRequest{Node: "manager-2", Slot: slot})
			if err != nil {
				t.Fatal(err)
			}
			rot = r.GetRotation()
		} else {
			r, err := w.remove("manager-2", slot)
			if err != nil {
				t.Fatal(err)
			}
			rot = r.GetRotation()
		}
		// The external CA knows the key of orders of before: that is told at once.
		if st, err := w.api.GetStatus(t.Context(), &controlpb.GetStatusRequest{}); err != nil || rot.GetExternal() != "https://ca" ||
			!slices.ContainsFunc(st.GetWarnings(), func(s string) bool { return strings.Contains(s, "`redoubt ca external provisioner`") }) {
			t.Errorf("demote %v: of %q status says %q, %v", demote, rot.GetExternal(), st.GetWarnings(), err)
		}
		if rot.GetKeysetEpoch() != 2 || rot.GetSlotEpoch() != 2 || rot.GetTokensVoid() != 1 || len(rot.GetAway()) != 0 {
			t.Errorf("demote %v: %v", demote, rot)
		}
		if len(w.retired) != 2 || !bytes.Equal(w.retired[0], w.keys[w.second]) || !bytes.Equal(w.retired[1], lost) {
			t.Errorf("%d keys are retired", len(w.retired))
		}
		if n := len(w.cluster().GetRevokedIssuers()); n != 2 {
			t.Errorf("%d CAs are revoked, want that of nodes and that of workloads", n)
		}
		err := w.store.View(func(r *raftstore.ReadTx) error {
			if _, ok := autolockstore.Keysets.Get(r, w.second); ok {
				t.Error("the one that left has a keyset")
			}
			k, _ := autolockstore.Keysets.Get(r, w.manager)
			s, _ := autolockstore.Slots.Get(r, autolockstore.RecordID)
			if k.GetEpoch() != 2 || !strings.Contains(string(k.GetSealed()), w.manager) || s.GetSet().GetSlots()[0].GetId() != slot.GetId() {
				t.Errorf("%v, %v", k, s)
			}
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
		// Again: there is nothing left to take.
		if demote {
			_, err = w.api.DemoteNode(t.Context(), &controlpb.DemoteNodeRequest{Node: "manager-2", Slot: newSlot()})
			wantReason(t, err, apierr.ReasonState, "is a worker already")
		} else {
			_, err = w.remove("manager-2", newSlot())
			wantReason(t, err, apierr.ReasonNotFound, "manager-2")
		}
	}
}

// A worker whose promotion was cut short after the keyset was given leaves with
// a rotation, and nobody needs a new operator key for it.
func TestWorkerThatWasGivenTheKeysetLeaves(t *testing.T) {
	w := newLeaveWorld(t)
	lost := bytes.Repeat([]byte{9}, 1216)
	w.change(w.worker, func(n *pkipb.Node) { n.KeysetEpoch, n.GivenKeydKeys = 1, [][]byte{lost} })
	r, err := w.remove("worker-1", nil)
	if err != nil || r.GetManager() || r.GetRotation().GetKeysetEpoch() != 2 || r.GetRotation().GetSlotEpoch() != 0 {
		t.Fatalf("%v, %v", r, err)
	}
	if len(w.retired) != 1 || !bytes.Equal(w.retired[0], lost) {
		t.Errorf("%d keys are retired", len(w.retired))
	}
}

// TestWorkerThatWasGivenTheKeysetIsTaken removes such a one with its keys in other
// hands, at once or by a second command: the root key was sealed to that machine.
func TestWorkerThatWasGivenTheKeysetIsTaken(t *testing.T) {
	for name, later := range map[string]bool{"at once": false, "known later": true} {
		t.Run(name, func(t *testing.T) {
			w := newLeaveWorld(t)
			w.change(w.worker, func(n *pkipb.Node) { n.KeysetEpoch, n.GivenKeydKeys = 1, [][]byte{bytes.Repeat([]byte{9}, 1216)} })
			if later {
				if _, err := w.remove("worker-1", nil); err != nil {
					t.Fatal(err)
				}
			}
			r, err := w.api.RemoveNode(t.Context(), &controlpb.RemoveNodeRequest{Node: w.worker, Force: true, Compromised: true})
			if err != nil || !r.GetRotation().GetRootExposed() || len(w.cluster().GetExposures()) != 1 {
				t.Errorf("%v, %v; exposures %v", r, err, w.cluster().GetExposures())
			}
		})
	}
}

func TestPromotionRefusalsOfOperators(t *testing.T) {
	w := newLeaveWorld(t)
	before := w.facts()
	promote := func(name string) error {
		_, err := w.api.PromoteNode(t.Context(), &controlpb.PromoteNodeRequest{Node: name})
		return err
	}
	wantReason(t, promote("nobody"), apierr.ReasonNotFound, "nobody")
	wantReason(t, promote("manager-2"), apierr.ReasonState, "manager already")
	w.sessions = nil
	wantReason(t, promote("worker-1"), apierr.ReasonState, "is away")
	w.unchanged(before)
}
