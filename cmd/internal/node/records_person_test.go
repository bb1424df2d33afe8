package node

import (
	"encoding/hex"
	"runtime"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/redoubt-cluster/redoubt/cmd/internal/control/controlpb"
	"github.com/redoubt-cluster/redoubt/cmd/internal/roles"
	"github.com/redoubt-cluster/redoubt/mesh/meshpb"
	"github.com/redoubt-cluster/redoubt/pki"
	"github.com/redoubt-cluster/redoubt/pki/audit/auditpb"
	"github.com/redoubt-cluster/redoubt/pki/pkipb"
	pkistore "github.com/redoubt-cluster/redoubt/pki/store"
	"github.com/redoubt-cluster/redoubt/raftstore"
)

// TestPersonIsRecorded: what a person does, is refused by a role, and is refused once
// revoked, has their name, key and address in the audit log.
func TestPersonIsRecorded(t *testing.T) {
	w := newCallerWorld(t)
	cert := w.person(t, w.ca, "alice", time.Now(), nil)
	w.update(t, func(tx *raftstore.Tx) error {
		_, err := roles.Bind(tx, "deployer", roles.Principal{Kind: pkipb.Principal_KIND_PERSON, Name: "alice"}, nil)
		return err
	})
	var rec *pkipb.Person
	if err := w.m.store.View(func(r *raftstore.ReadTx) error {
		rec, _ = pkistore.People.Get(r, "alice")
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	cc, err := w.dialPerson(t, cert)
	if err != nil {
		t.Fatal(err)
	}
	defer cc.Close()
	api := controlpb.NewControlClient(cc)
	if _, err := api.CreateNetwork(t.Context(), &controlpb.CreateNetworkRequest{Spec: &meshpb.NetworkSpec{Name: "hers"}}); err != nil {
		t.Fatal(err)
	}
	w.waitRecord(t, "what alice did", func(r *auditpb.Record) bool {
		return r.GetOutcome() == auditpb.Outcome_OUTCOME_DONE && strings.HasSuffix(r.GetMethod(), "/CreateNetwork") && byPerson(r, rec) &&
			r.GetCaller().GetKey() == hex.EncodeToString(rec.GetLeafSpki()) && strings.HasPrefix(r.GetCaller().GetAddress(), "127.0.0.1:")
	})
	if _, err := api.RemoveNode(t.Context(), &controlpb.RemoveNodeRequest{Node: w.m.creds.Peer().NodeID}); status.Code(err) != codes.PermissionDenied {
		t.Fatalf("a deployer removes nodes: %v", err)
	}
	w.waitRecord(t, "what alice may not do", func(r *auditpb.Record) bool {
		return r.GetOutcome() == auditpb.Outcome_OUTCOME_DENIED && strings.HasSuffix(r.GetMethod(), "/RemoveNode") && byPerson(r, rec) &&
			strings.Contains(r.GetReason(), "may not node.remove")
	})
	w.update(t, func(tx *raftstore.Tx) error { return pki.RevokePerson(tx, "alice") })
	if _, err := api.ListServices(t.Context(), &controlpb.ListServicesRequest{}); err == nil {
		t.Fatal("a revoked person calls")
	}
	w.waitRecord(t, "what alice tried once revoked", func(r *auditpb.Record) bool {
		return r.GetOutcome() == auditpb.Outcome_OUTCOME_DENIED && strings.HasSuffix(r.GetMethod(), "/ListServices") && byPerson(r, rec) &&
			r.GetReason() == "person alice was revoked"
	})
}

func byPerson(r *auditpb.Record, p *pkipb.Person) bool {
	c := r.GetCaller()
	return c.GetPerson() == p.GetId() && c.GetName() == "person "+p.GetId() && c.GetNode() == "" && !c.GetLocalRoot() && c.GetManager() != ""
}

// waitRecord waits for a record that is so; those of refusals are not there at once.
func (w *callerWorld) waitRecord(t *testing.T, what string, so func(*auditpb.Record) bool) {
	t.Helper()
	for deadline := time.Now().Add(time.Minute); ; runtime.Gosched() {
		all := recordsIn(t, w.m.store)
		for _, r := range all {
			if so(r) {
				return
			}
		}
		if time.Now().After(deadline) {
			t.Fatalf("no record of %s: %v", what, all)
		}
	}
}
