package node

import (
	"context"
	"crypto/ed25519"
	"errors"
	"log/slog"
	"net"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/mod/sumdb/tlog"

	"github.com/redoubt-cluster/redoubt/autolock/keyd/keydpb"
	"github.com/redoubt-cluster/redoubt/autolock/keydclient"
	"github.com/redoubt-cluster/redoubt/internal/checkpoint"
	"github.com/redoubt-cluster/redoubt/internal/ident"
	"github.com/redoubt-cluster/redoubt/internal/wire"
	"github.com/redoubt-cluster/redoubt/pki"
	"github.com/redoubt-cluster/redoubt/pki/pkipb"
	pkistore "github.com/redoubt-cluster/redoubt/pki/store"
	"github.com/redoubt-cluster/redoubt/raftstore"
	"github.com/redoubt-cluster/redoubt/raftstore/raftstoretest"
)

// rootKeyd is a keyd that signs roots, and keeps what it signed last.
type rootKeyd struct {
	cluster, node string
	key, own      ed25519.PrivateKey
	last          checkpoint.Checkpoint
	asked         int
}

func (k *rootKeyd) SignCheckpoint(_ context.Context, req *keydpb.SignCheckpointRequest) (*keydpb.SignCheckpointResponse, error) {
	k.asked++
	if req.GetBefore() != k.last.Size {
		return &keydpb.SignCheckpointResponse{Last: k.last.Size, Incarnation: 1}, nil
	}
	c := checkpoint.Checkpoint{Cluster: k.cluster, Incarnation: 1, Size: req.GetSize(), Root: tlog.Hash(req.GetRoot())}
	var proof tlog.TreeProof
	for _, h := range req.GetProof() {
		proof = append(proof, tlog.Hash(h))
	}
	if k.last.Size > 0 && tlog.CheckTree(proof, int64(c.Size), c.Root, int64(k.last.Size), k.last.Root) != nil {
		return nil, errors.New("it was changed")
	}
	k.last = c
	return &keydpb.SignCheckpointResponse{Incarnation: 1, At: 7, Signature: ed25519.Sign(k.key, c.Text()), Key: k.key.Public().(ed25519.PublicKey),
		Cosignature: ed25519.Sign(k.own, checkpoint.CosignText(c.Text(), 7)), OwnKey: k.own.Public().(ed25519.PublicKey)}, nil
}

// checkWorld is a manager that leads, does nothing by itself, and has such a keyd.
type checkWorld struct{ m *managerState }

func newCheckWorld(t *testing.T) (*checkWorld, *rootKeyd) {
	t.Helper()
	store := raftstoretest.New(t, tables()...)
	k := &rootKeyd{cluster: ident.New(), node: store.NodeID()}
	for _, key := range []*ed25519.PrivateKey{&k.key, &k.own} {
		_, private, err := ed25519.GenerateKey(nil)
		if err != nil {
			t.Fatal(err)
		}
		*key = private
	}
	path := filepath.Join(t.TempDir(), "keyd")
	l, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			for { // one after another: there is one client
				req := new(keydpb.Request)
				if wire.Read(conn, req) != nil {
					break
				}
				resp, err := k.SignCheckpoint(context.Background(), req.GetSignCheckpoint())
				answer := &keydpb.Response{Result: &keydpb.Response_SignCheckpoint{SignCheckpoint: resp}}
				if err != nil {
					answer = &keydpb.Response{Result: &keydpb.Response_Error{Error: &keydpb.Error{Code: keydpb.Code_CODE_DENIED, Message: err.Error()}}}
				}
				if wire.Write(conn, answer) != nil {
					break
				}
			}
			conn.Close()
		}
	}()
	n := &Node{log: slog.New(slog.DiscardHandler), keyd: keydclient.New(path), self: &member{NodeID: k.node, ClusterID: k.cluster, Manager: true}}
	t.Cleanup(func() {
		n.keyd.Close()
		l.Close()
		<-done
	})
	return &checkWorld{&managerState{n: n, store: store}}, k
}

func (w *checkWorld) record(t *testing.T, what string) {
	t.Helper()
	if err := w.m.store.Update(t.Context(), func(tx *raftstore.Tx) error { return tx.Record([]byte(what)) }); err != nil {
		t.Fatal(err)
	}
}

// kept is the checkpoint in the store, opened with the keys that are there.
func (w *checkWorld) kept(t *testing.T) (rec *pkipb.AuditCheckpoint, signed checkpoint.Signed) {
	t.Helper()
	var keys []string
	if err := w.m.store.View(func(r *raftstore.ReadTx) error {
		rec, _ = pkistore.AuditCheckpoints.Get(r, pkistore.CheckpointID)
		for k := range pkistore.AuditKeys.All(r) {
			keys = append(keys, k.GetKey())
		}
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	signed, err := checkpoint.Open(rec.GetNote(), keys)
	if err != nil {
		t.Fatalf("%s: %v", rec.GetNote(), err)
	}
	return rec, signed
}

func TestCheckpoint(t *testing.T) {
	w, k := newCheckWorld(t)
	w.record(t, "one")
	w.record(t, "two")
	make1 := func() uint64 {
		t.Helper()
		if err := w.m.makeCheckpoint(t.Context()); err != nil {
			t.Fatal(err)
		}
		r, err := w.m.store.Records()
		if err != nil {
			t.Fatal(err)
		}
		rec, signed := w.kept(t)
		root, err := r.Root(rec.GetSize())
		if err != nil || signed.Size != rec.GetSize() || signed.Root != root || len(signed.By) != 2 || len(rec.GetDissents()) != 0 {
			t.Fatalf("%+v of %v, %v", signed, rec, err)
		}
		return r.Log.Size() - rec.GetSize()
	}
	if left := make1(); left != 1 { // the keys' own record
		t.Errorf("%d records came with the first checkpoint", left)
	}
	if left := make1(); left != 0 {
		t.Errorf("a checkpoint left a record: %d", left)
	}
	asked := k.asked
	if make1(); k.asked != asked {
		t.Error("a log at rest was signed again")
	}
	w.record(t, "three")
	make1()

	// The other managers' side of it.
	r, err := w.m.store.Records()
	if err != nil {
		t.Fatal(err)
	}
	size := r.Log.Size()
	root, err := r.Root(size)
	if err != nil {
		t.Fatal(err)
	}
	witness := witnessServer{m: w.m}
	resp, err := witness.Cosign(t.Context(), &pkipb.CosignRequest{Size: size, Root: root[:]})
	if err != nil || resp.GetForked() || len(resp.GetCosignature()) == 0 {
		t.Fatalf("the same root: %v, %v", resp, err)
	}
	root[0] ^= 1
	if resp, err := witness.Cosign(t.Context(), &pkipb.CosignRequest{Size: size, Root: root[:]}); err != nil || !resp.GetForked() || len(resp.GetCosignature()) > 0 {
		t.Errorf("another root: %v, %v", resp, err)
	}
	for _, bad := range []*pkipb.CosignRequest{{Size: size}, {Root: root[:]}, {Size: size, Root: root[:31]}} {
		if resp, err := witness.Cosign(t.Context(), bad); err == nil {
			t.Errorf("%v: %v", bad, resp)
		}
	}
	// keyd signed what is not in this log: nothing is signed, and the last one stays.
	k.last.Root[0] ^= 1
	w.record(t, "four")
	if err := w.m.makeCheckpoint(t.Context()); err == nil || !strings.Contains(err.Error(), "it was changed") {
		t.Errorf("another log was signed: %v", err)
	}
	if rec, _ := w.kept(t); rec.GetSize() != size {
		t.Errorf("the checkpoint is of %d records, not %d", rec.GetSize(), size)
	}
	k.last.Size = 1 << 40
	if err := w.m.makeCheckpoint(t.Context()); err == nil || !strings.Contains(err.Error(), "keyd has signed 1099511627776 records") {
		t.Errorf("a log that was shortened was signed: %v", err)
	}
}

// TestWhoDoesNotSign: each is told with its reason, and nothing that it sent is in
// the checkpoint.
func TestWhoDoesNotSign(t *testing.T) {
	c := checkpoint.Checkpoint{Cluster: ident.New(), Incarnation: 2, Size: 9}
	public, private, err := ed25519.GenerateKey(nil)
	if err != nil {
		t.Fatal(err)
	}
	good := ed25519.Sign(private, checkpoint.CosignText(c.Text(), 3))
	a := assembly{c: c, keys: []string{checkpoint.ClusterKey(c, public)}, lines: []string{checkpoint.ClusterLine(c, public, ed25519.Sign(private, c.Text()))}}
	for id, tc := range map[string]struct {
		resp *pkipb.CosignResponse
		err  error
		want string
	}{
		"1 away":                   {nil, errors.New(strings.Repeat("é", maxDissent)), "it did not sign: é"},
		"2 forked":                 {&pkipb.CosignResponse{Forked: true, Cosignature: good, Key: public, At: 3, Incarnation: 2}, nil, "another audit log"},
		"3 of another incarnation": {&pkipb.CosignResponse{Cosignature: good, Key: public, At: 3, Incarnation: 1}, nil, "in incarnation 1"},
		"4 of another time":        {&pkipb.CosignResponse{Cosignature: good, Key: public, At: 4, Incarnation: 2}, nil, "not valid"},
		"5 without a key":          {&pkipb.CosignResponse{Cosignature: good, At: 3, Incarnation: 2}, nil, "not valid"},
		"6 without a signature":    {&pkipb.CosignResponse{Key: public, At: 3, Incarnation: 2}, nil, "not valid"},
	} {
		a.add(id, tc.resp, tc.err)
		found := false
		for _, d := range a.dissents {
			found = found || d.GetNodeId() == id && strings.Contains(d.GetReason(), tc.want) && len(d.GetReason()) <= maxDissent && d.GetForked() == (id == "2 forked")
		}
		if !found {
			t.Errorf("%s: %v", id, a.dissents)
		}
	}
	if len(a.lines) != 1 || len(a.dissents) != 6 || a.dissents[0].GetNodeId() != "1 away" {
		t.Errorf("%v, %v", a.lines, a.dissents)
	}
	a.add(ident.New(), &pkipb.CosignResponse{Cosignature: good, Key: public, At: 3, Incarnation: 2}, nil)
	if err := a.check(); err != nil || len(a.lines) != 2 {
		t.Errorf("%v, %v", a.lines, err)
	}
	a.c.Size++
	if err := a.check(); err == nil {
		t.Error("signatures on another checkpoint are taken")
	}
}

// TestKeyIsPinned: a manager that signed goes on to sign with the same key, whatever
// else its redoubtd says that its key is; and no key of the cluster's, nor of a node
// that is there, makes room for another.
func TestKeyIsPinned(t *testing.T) {
	w, k := newCheckWorld(t)
	w.record(t, "one")
	if err := w.m.makeCheckpoint(t.Context()); err != nil {
		t.Fatal(err)
	}
	first := k.own
	_, other, err := ed25519.GenerateKey(nil)
	if err != nil {
		t.Fatal(err)
	}
	k.own = other
	w.record(t, "two")
	if err := w.m.makeCheckpoint(t.Context()); err != nil {
		t.Fatal(err)
	}
	rec, signed := w.kept(t)
	if len(signed.By) != 1 || len(rec.GetDissents()) != 1 || !strings.Contains(rec.GetDissents()[0].GetReason(), "another key than before") {
		t.Errorf("another key is taken: %v, %v", signed.By, rec.GetDissents())
	}
	k.own = first
	w.record(t, "three")
	if err := w.m.makeCheckpoint(t.Context()); err != nil {
		t.Fatal(err)
	}
	if rec, signed := w.kept(t); len(signed.By) != 2 || len(rec.GetDissents()) != 0 {
		t.Errorf("the first key is not taken: %v, %v", signed.By, rec.GetDissents())
	}

	key := func(node string) string {
		public, _, err := ed25519.GenerateKey(nil)
		if err != nil {
			t.Fatal(err)
		}
		if node == "" {
			return checkpoint.ClusterKey(checkpoint.Checkpoint{Cluster: k.cluster, Incarnation: 1, Size: 1}, public)
		}
		return checkpoint.ManagerKey(k.cluster, node, public)
	}
	add := func(keys ...string) error {
		return w.m.store.Update(t.Context(), func(tx *raftstore.Tx) error {
			return pki.PutAuditKeys(tx, w.m.n.who().ClusterID, time.Now().Add(-time.Hour), keys...)
		})
	}
	there, gone := ident.New(), key(ident.New())
	if err := w.m.store.Update(t.Context(), func(tx *raftstore.Tx) error {
		return pkistore.Nodes.Put(tx, &pkipb.Node{Id: there, Name: "manager-2"})
	}); err != nil {
		t.Fatal(err)
	}
	// What this manager signs with is of no node in this store, so that it would make
	// room too: as many as there may be, but for that one.
	if err := w.m.store.Update(t.Context(), func(tx *raftstore.Tx) error {
		return pkistore.Nodes.Put(tx, &pkipb.Node{Id: k.node, Name: "manager-1"})
	}); err != nil {
		t.Fatal(err)
	}
	many := []string{gone}
	for i := range checkpoint.MaxKeys - 3 {
		many = append(many, key([]string{"", there}[i%2]))
	}
	if err := add(many...); err != nil {
		t.Fatal(err)
	}
	if err := add(key(there)); err != nil {
		t.Errorf("a key of a node that is gone makes no room: %v", err)
	}
	if err := add(key(there)); err == nil {
		t.Error("a key that is needed made room")
	}
	if rec, signed := w.kept(t); len(signed.By) != 2 {
		t.Errorf("the checkpoint cannot be opened any more: %v, %v", rec, signed.By)
	}
}
