package control_test

import (
	"context"
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/redoubt-cluster/redoubt/cmd/internal/control/apierr"
	"github.com/redoubt-cluster/redoubt/cmd/internal/control/controlpb"
	"github.com/redoubt-cluster/redoubt/internal/ident"
	"github.com/redoubt-cluster/redoubt/pki"
	"github.com/redoubt-cluster/redoubt/pki/pkipb"
	"github.com/redoubt-cluster/redoubt/pki/profile"
	pkistore "github.com/redoubt-cluster/redoubt/pki/store"
	"github.com/redoubt-cluster/redoubt/raftstore"
	"github.com/redoubt-cluster/redoubt/scheduler/schedulerpb"
	"github.com/redoubt-cluster/redoubt/scheduler/schedulertest"
	schedstore "github.com/redoubt-cluster/redoubt/scheduler/store"
	"github.com/redoubt-cluster/redoubt/scheduler/taskpb"
	"github.com/redoubt-cluster/redoubt/secrets/secretspb"
	secretstore "github.com/redoubt-cluster/redoubt/secrets/store"
)

// TestRevokeNode: a node that is up is denied, listed as revoked, and goes from the
// list when it is removed; another of its name is another.
func TestRevokeNode(t *testing.T) {
	w := newLeaveWorld(t)
	id := w.addNode("worker-9", false)
	w.issued = map[string][]*pkipb.IssuedCertificate{id: {{Serial: []byte{1}, NotAfter: time.Now().Add(time.Hour).Unix()}}}
	if _, err := w.api.RevokeNode(t.Context(), &controlpb.RevokeNodeRequest{Node: "worker-9", Check: true}); err != nil {
		t.Fatal(err)
	}
	if resp, err := w.api.RevokeNode(t.Context(), &controlpb.RevokeNodeRequest{Node: "worker-9"}); err != nil || resp.GetId() != id || resp.GetManager() {
		t.Fatal(resp, err)
	}
	record := func(id string) *pkipb.Node {
		n, err := pkistore.Directory{Store: w.store}.Node(id)
		if err != nil {
			t.Fatal(err)
		}
		return n
	}
	if n := record(id); !n.GetDenied() || !n.GetRevoked() || !n.GetCompromised() || len(n.GetWorkloadCertificates()) != 1 {
		t.Errorf("its record is %v", n)
	}
	revoked := func() (ids []string) {
		resp, err := w.api.ListNodes(t.Context(), &controlpb.ListNodesRequest{})
		if err != nil {
			t.Fatal(err)
		}
		for _, v := range resp.GetNodes() {
			if v.GetRevokedAt() != 0 {
				ids = append(ids, v.GetId())
			}
		}
		return ids
	}
	if got := revoked(); !slices.Equal(got, []string{id}) {
		t.Errorf("revoked are %v", got)
	}
	for _, again := range []func() error{
		func() error {
			_, err := w.api.DemoteNode(t.Context(), &controlpb.DemoteNodeRequest{Node: id})
			return err
		},
	} {
		if err := again(); err == nil || !strings.Contains(err.Error(), "no node") {
			t.Errorf("what is revoked is a member no more: %v", err)
		}
	}
	w.issued[id] = append(w.issued[id], &pkipb.IssuedCertificate{Serial: []byte{2}, NotAfter: time.Now().Add(time.Hour).Unix()})
	if resp, err := w.api.RevokeNode(t.Context(), &controlpb.RevokeNodeRequest{Node: "worker-9"}); err != nil || resp.GetId() != id || len(record(id).GetWorkloadCertificates()) != 2 {
		t.Errorf("revoked again: %v, %v; its record is %v", resp, err, record(id))
	}
	twin := w.addNode("worker-9", false)
	if resp, err := w.api.RemoveNode(t.Context(), &controlpb.RemoveNodeRequest{Node: id, Check: true}); err != nil || resp.GetId() != id {
		t.Error(resp, err)
	}
	if len(revoked()) != 1 {
		t.Error("asking whether it can be removed removed it")
	}
	if resp, err := w.api.RemoveNode(t.Context(), &controlpb.RemoveNodeRequest{Node: id}); err != nil || resp.GetId() != id {
		t.Error(resp, err)
	}
	if len(revoked()) != 0 || !record(id).GetDenied() || record(twin).GetDenied() {
		t.Error("it was removed, and is listed, or forgiven, or its namesake went with it")
	}
}

// Who goes away in the middle leaves nothing undone; what could not be listed is told, and
// listed when the command is given again.
func TestRevokeNodeInterrupted(t *testing.T) {
	w := newLeaveWorld(t)
	listed := func(id string) int {
		n, err := pkistore.Directory{Store: w.store}.Node(id)
		if err != nil || !n.GetRevoked() {
			t.Fatal(n, err)
		}
		return len(n.GetWorkloadCertificates())
	}
	w.issued = map[string][]*pkipb.IssuedCertificate{}
	if _, err := w.secret("db", kindFile); err != nil {
		t.Fatal(err)
	}
	service, err := w.serve("web", func(c *taskpb.ContainerSpec) { c.Secrets = []*taskpb.FileUse{{Source: "db"}} })
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"worker-7", "worker-8"} {
		id := w.addNode(name, false)
		schedulertest.Update(t, w.store, func(tx *raftstore.Tx) error {
			return schedstore.Tasks.Put(tx, &schedulerpb.Task{Id: ident.New(), ServiceId: service, Slot: 1, Revision: 1, NodeId: id, Desired: schedstore.Running,
				Status: &schedulerpb.TaskStatus{State: schedstore.Running}})
		})
		w.issued[id] = []*pkipb.IssuedCertificate{{Serial: []byte{1}, NotAfter: time.Now().Add(time.Hour).Unix()}}
		ctx, cancel := context.WithCancel(t.Context())
		w.noIssued = func() error { return errors.New("the store is closed") }
		want := 0
		if name == "worker-8" {
			w.noIssued, want = nil, 1
			w.going = cancel
		}
		resp, err := w.api.RevokeNode(ctx, &controlpb.RevokeNodeRequest{Node: name})
		cancel()
		w.noIssued, w.going = nil, nil
		if err != nil || resp.GetUnlisted() != (want == 0) || len(resp.GetServices()) != 1 || len(resp.GetKnown().GetSecrets()) != 1 || resp.GetAlready() {
			t.Errorf("%s: %v, %v", name, resp, err)
		}
		if n := listed(id); n != want {
			t.Errorf("%s: %d are listed, want %d", name, n, want)
		}
		again, err := w.api.RevokeNode(t.Context(), &controlpb.RevokeNodeRequest{Node: name})
		if err != nil || listed(id) != 1 || !again.GetAlready() || again.GetUnlisted() {
			t.Errorf("%s again: %v, %v, %d are listed", name, again, err, listed(id))
		}
		if !slices.Equal(again.GetServices(), resp.GetServices()) || !proto.Equal(again.GetKnown(), resp.GetKnown()) {
			t.Errorf("%s again: told %v after %v", name, again, resp)
		}
	}
}

// The answer to the removal of a manager was lost: the same command tells what it took.
func TestRevokeManagerAgain(t *testing.T) {
	w := newLeaveWorld(t)
	before, err := w.secret("db", kindFile)
	if err != nil {
		t.Fatal(err)
	}
	first, err := w.api.RevokeNode(t.Context(), &controlpb.RevokeNodeRequest{Node: "manager-2", Slot: newSlot()})
	if err != nil {
		t.Fatal(err)
	}
	schedulertest.Update(t, w.store, func(tx *raftstore.Tx) error {
		s, _ := secretstore.Secrets.Get(tx, before)
		s = proto.CloneOf(s)
		s.Versions = append(s.Versions, &secretspb.VersionFacts{Number: 2, Id: ident.New(), CreatedAt: tx.Now().Add(2 * time.Second).UnixNano(), Size: 1})
		return secretstore.Secrets.Put(tx, s)
	})
	again, err := w.api.RevokeNode(t.Context(), &controlpb.RevokeNodeRequest{Node: "manager-2", Check: true})
	if err != nil || !again.GetAlready() || again.GetManager() || again.GetKnown() != nil {
		t.Errorf("the question: %v, %v", again, err)
	}
	again, err = w.api.RevokeNode(t.Context(), &controlpb.RevokeNodeRequest{Node: "manager-2"})
	if err != nil || !again.GetAlready() || !proto.Equal(again.GetKnown(), first.GetKnown()) {
		t.Errorf("told %v after %v, %v", again, first, err)
	}
	if r, was := again.GetRotation(), first.GetRotation(); r.GetKeysetEpoch() != was.GetKeysetEpoch() || r.GetSlotEpoch() != was.GetSlotEpoch() || !r.GetRootExposed() || w.asked != 1 {
		t.Errorf("rotation %v after %v, %d made", r, was, w.asked)
	}
}

// A manager was removed, and later it turns out that its keys are in other hands: the
// root is exposed until it is replaced.
func TestRemoveNodeExposedLater(t *testing.T) {
	w := newLeaveWorld(t)
	if r, err := w.remove("manager-2", newSlot()); err != nil || r.GetRotation().GetRootExposed() {
		t.Fatal(r, err)
	}
	if r, err := w.remove(w.second, nil); err != nil || !r.GetAlready() || len(w.cluster().GetExposures()) != 0 {
		t.Errorf("again: %v, %v, %v", r, err, w.cluster().GetExposures())
	}
	compromised := func(check bool) *controlpb.RemoveNodeResponse {
		t.Helper()
		r, err := w.api.RemoveNode(t.Context(), &controlpb.RemoveNodeRequest{Node: w.second, Compromised: true, Check: check})
		if err != nil || !r.GetAlready() {
			t.Fatal(r, err)
		}
		return r
	}
	if compromised(true); len(w.cluster().GetExposures()) != 0 {
		t.Error("the question noted it")
	}
	if r := compromised(false); !r.GetRotation().GetRootExposed() || len(w.cluster().GetExposures()) != 1 || w.asked != 1 {
		t.Errorf("%v, %v, %d keysets", r, w.cluster().GetExposures(), w.asked)
	}
	schedulertest.Update(t, w.store, func(tx *raftstore.Tx) error {
		c, _ := pkistore.Cluster.Get(tx, pkistore.ClusterID)
		c = proto.CloneOf(c)
		c.Exposures[0].FormerRoot = true
		return pkistore.Cluster.Put(tx, c)
	})
	if r := compromised(false); r.GetRotation().GetRootExposed() || len(w.cluster().GetExposures()) != 1 {
		t.Errorf("the root was replaced: %v, %v", r, w.cluster().GetExposures())
	}
}

// A removal of which something was not listed says so, and is repeated by the node's id.
func TestRemoveNodeUnlisted(t *testing.T) {
	w := newLeaveWorld(t)
	id := w.addNode("worker-9", false)
	w.issued = map[string][]*pkipb.IssuedCertificate{id: {{Serial: []byte{1}, NotAfter: time.Now().Add(time.Hour).Unix()}}}
	w.noIssued = func() error { return errors.New("the store is closed") }
	for i, ref := range []string{"worker-9", id} {
		r, err := w.api.RemoveNode(t.Context(), &controlpb.RemoveNodeRequest{Node: ref, Force: true})
		if err != nil || !r.GetUnlisted() || r.GetAlready() != (i > 0) || r.GetId() != id {
			t.Errorf("%s: %v, %v", ref, r, err)
		}
	}
	w.noIssued = nil
	if r, err := w.api.RemoveNode(t.Context(), &controlpb.RemoveNodeRequest{Node: id}); err != nil || r.GetUnlisted() || !r.GetAlready() {
		t.Error(r, err)
	}
	if n, err := (pkistore.Directory{Store: w.store}).Node(id); err != nil || len(n.GetWorkloadCertificates()) != 1 {
		t.Error(n, err)
	}
	for _, ref := range []string{"worker-9", id[:10]} {
		if _, err := w.api.RemoveNode(t.Context(), &controlpb.RemoveNodeRequest{Node: ref}); err == nil || !strings.Contains(err.Error(), "no node") {
			t.Errorf("%s, which was removed: %v", ref, err)
		}
	}
}

func TestRevokeIdentity(t *testing.T) {
	w := newWorld(t)
	w.create(w.spec("web"))
	w.create(w.spec("db"))
	schedulertest.Update(t, w.store, func(tx *raftstore.Tx) error {
		for i, name := range []string{"web", "web", "db"} {
			service, err := schedstore.ResolveService(tx, name)
			if err != nil {
				return err
			}
			task := &schedulerpb.Task{Id: ident.New(), ServiceId: service.GetId(), Slot: uint32(i + 1), Revision: 1, NodeId: w.worker, Desired: schedstore.Running,
				Status: &schedulerpb.TaskStatus{State: schedstore.Running}}
			if i == 1 {
				task.Status.State = schedulerpb.TaskState_TASK_STATE_FAILED
			}
			if err := schedstore.Tasks.Put(tx, task); err != nil {
				return err
			}
		}
		return nil
	})
	id := profile.ServiceURI(w.ca.ClusterID, "", "web").String()
	ctx := t.Context()
	issued := func(serials ...byte) {
		w.issued = map[string][]*pkipb.IssuedCertificate{"another": {{Serial: []byte{9}, NotAfter: time.Now().Add(time.Hour).Unix()}}}
		for _, s := range serials {
			w.issued[id] = append(w.issued[id], &pkipb.IssuedCertificate{Serial: []byte{s}, NotAfter: time.Now().Add(time.Hour).Unix()})
		}
	}
	listed := func() (n int) {
		_ = w.store.View(func(r *raftstore.ReadTx) error {
			rec, _ := pkistore.DeniedIdentities.Get(r, id)
			n = len(rec.GetCertificates())
			return nil
		})
		return n
	}
	issued(1)
	revoke := func(ref string) (*controlpb.RevokeIdentityResponse, error) {
		return w.api.RevokeIdentity(ctx, &controlpb.RevokeIdentityRequest{Identity: ref})
	}
	for i, ref := range []string{"web", id} {
		if resp, err := revoke(ref); err != nil || resp.GetIdentity().GetId() != id || resp.GetAlready() != (i > 0) || !slices.Equal(resp.GetTasks(), []string{"web.1 on worker-1"}) {
			t.Errorf("%s: %v %v", ref, resp, err)
		}
		// What another leader did not know is listed when it is told once more.
		if n := listed(); n != i+1 {
			t.Errorf("%d certificates of it are listed, want %d", n, i+1)
		}
		issued(1, 2)
	}
	for ref, want := range map[string]string{
		"nothing":        "nothing",
		"spiffe://x/y":   "spiffe://<cluster id>",
		"/svc/default/w": "spiffe://<cluster id>",
		profile.ServiceURI(ident.New(), "", "web").String():             "of cluster",
		profile.NodeURI(w.ca.ClusterID, ident.New()).String():           "spiffe://<cluster id>",
		profile.ServiceURI(w.ca.ClusterID, "", "web").String() + "?a=b": "spiffe://<cluster id>",
	} {
		if _, err := revoke(ref); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v", ref, err)
		}
	}
	if denied, err := w.api.ListDenied(ctx, &controlpb.ListDeniedRequest{}); err != nil || len(denied.GetIdentities()) != 1 || denied.GetIdentities()[0].GetAllowedAt() != 0 {
		t.Errorf("revoked are %v, %v", denied, err)
	}
	if resp, err := w.api.AllowIdentity(ctx, &controlpb.AllowIdentityRequest{Identity: "web"}); err != nil || resp.GetIdentity().GetAllowedAt() == 0 {
		t.Error(resp, err)
	}
	if _, err := w.api.AllowIdentity(ctx, &controlpb.AllowIdentityRequest{Identity: "web"}); apierr.ReasonOf(err) != apierr.ReasonState {
		t.Error("allowed twice:", err)
	}
	_ = w.store.View(func(r *raftstore.ReadTx) error {
		if pki.IdentityDenied(r, id) {
			t.Error("it is issued no more")
		}
		return nil
	})
}
