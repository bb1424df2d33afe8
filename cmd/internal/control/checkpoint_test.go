package control_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"testing"

	"golang.org/x/mod/sumdb/tlog"

	"github.com/redoubt-cluster/redoubt/cmd/internal/control"
	"github.com/redoubt-cluster/redoubt/cmd/internal/control/controlpb"
	"github.com/redoubt-cluster/redoubt/pki/pkipb"
	pkistore "github.com/redoubt-cluster/redoubt/pki/store"
	"github.com/redoubt-cluster/redoubt/raftstore"
	"github.com/redoubt-cluster/redoubt/raftstore/auditlog"
	"github.com/redoubt-cluster/redoubt/scheduler/schedulertest"
)

// others are managers with logs of their own.
type others map[string]auditlog.Log

func (o others) Others() (ids []string) {
	for id := range o {
		ids = append(ids, id)
	}
	return ids
}

func (o others) Ask(_ context.Context, id string, size uint64, _ bool) (*controlpb.ManagerRecords, error) {
	l, ok := o[id]
	if !ok {
		return nil, errors.New("it is away")
	}
	m := &controlpb.ManagerRecords{}
	if size <= l.Size() {
		root, err := (&auditlog.Reader{Log: l}).Root(size)
		if err != nil {
			return nil, err
		}
		m.Root = root[:]
	}
	return m, nil
}

// logWorld is a leader with so many records.
func logWorld(t *testing.T, records int) (w *world, own *auditlog.Reader) {
	t.Helper()
	w = newWorld(t)
	for i := range records {
		schedulertest.Update(t, w.store, func(tx *raftstore.Tx) error { return tx.Record(fmt.Append(nil, "record ", i)) })
	}
	own, err := w.store.Records()
	if err != nil {
		t.Fatal(err)
	}
	return w, own
}

// copied is the log as another manager has it, with some records changed.
func copied(t *testing.T, r *auditlog.Reader, changed ...uint64) (l auditlog.Log) {
	t.Helper()
	for n := range r.Log.Size() {
		e, err := r.Entry(n)
		if err != nil {
			t.Fatal(err)
		}
		for _, c := range changed {
			if c == n {
				e.Record = []byte("nothing happened")
			}
		}
		if l, err = l.Append(e); err != nil {
			t.Fatal(err)
		}
	}
	return l
}

func (w *world) asking(o others) *control.Server {
	return control.New(control.Config{Store: w.store, ClusterID: w.ca.ClusterID, Records: o, Logger: slog.New(slog.DiscardHandler)})
}

func byID(t *testing.T, resp *controlpb.VerifyRecordsResponse, id string) *controlpb.ManagerRecords {
	t.Helper()
	for _, m := range resp.GetManagers() {
		if m.GetId() == id {
			return m
		}
	}
	t.Fatalf("nothing of manager %s: %v", id, resp)
	return nil
}

func rootOf(t *testing.T, l auditlog.Log, size uint64) auditlog.Hash {
	t.Helper()
	root, err := (&auditlog.Reader{Log: l}).Root(size)
	if err != nil {
		t.Fatal(err)
	}
	return root
}

// proves reports whether the answer proves that the leader's log begins so.
func proves(t *testing.T, resp *controlpb.VerifyRecordsResponse, size uint64, root auditlog.Hash) bool {
	t.Helper()
	var proof tlog.TreeProof
	for _, h := range resp.GetProof() {
		proof = append(proof, tlog.Hash(h))
	}
	return tlog.CheckTree(proof, int64(resp.GetSize()), tlog.Hash(resp.GetManagers()[0].GetRoot()), int64(size), root) == nil
}

// TestVerifyNamesWhoForked: of three managers one has another log.
func TestVerifyNamesWhoForked(t *testing.T) {
	w, own := logWorld(t, 30)
	api := w.asking(others{"same": copied(t, own), "forked": copied(t, own, 17, 23)})
	resp, err := api.VerifyRecords(t.Context(), &controlpb.VerifyRecordsRequest{})
	if err != nil {
		t.Fatal(err)
	}
	if m := byID(t, resp, "forked"); !m.GetForked() || m.GetFirstForked() != 17 {
		t.Errorf("the one that forked: %v", m)
	}
	for _, id := range []string{"same", w.store.NodeID()} {
		if m := byID(t, resp, id); m.GetForked() || m.GetRewritten() {
			t.Errorf("%s: %v", id, m)
		}
	}
}

// TestVerifyAgainstWhatWasKept: managers that have rewritten what a root outside
// stands for are named, be they the most, the leader, or all.
func TestVerifyAgainstWhatWasKept(t *testing.T) {
	w, own := logWorld(t, 30)
	self := w.store.NodeID()
	truth := copied(t, own, 5) // what was there before the leader's record 5 was changed
	ask := func(o others, size uint64, root auditlog.Hash) *controlpb.VerifyRecordsResponse {
		t.Helper()
		resp, err := w.asking(o).VerifyRecords(t.Context(), &controlpb.VerifyRecordsRequest{KeptSize: size, KeptRoot: root[:]})
		if err != nil {
			t.Fatal(err)
		}
		return resp
	}
	for size := uint64(1); size <= 30; size++ {
		root := rootOf(t, own.Log, size)
		if resp := ask(others{"same": copied(t, own)}, size, root); !proves(t, resp, size, root) || byID(t, resp, self).GetRewritten() || byID(t, resp, "same").GetRewritten() {
			t.Fatalf("of %d records: %v", size, resp)
		}
	}
	root := rootOf(t, truth, 20)
	resp := ask(others{"liar": copied(t, own), "honest": truth}, 20, root)
	if proves(t, resp, 20, root) {
		t.Error("the leader proves what it does not have")
	}
	for _, id := range []string{self, "liar"} {
		if m := byID(t, resp, id); !m.GetRewritten() || m.FirstRewritten == nil || m.GetFirstRewritten() != 5 {
			t.Errorf("%s: %v", id, m)
		}
	}
	if m := byID(t, resp, "honest"); m.GetRewritten() || m.GetFirstForked() != 5 {
		t.Errorf("the honest one: %v", m)
	}
	// All of them: that it was done is known, and not where.
	resp = ask(others{"liar": copied(t, own)}, 20, root)
	if m := byID(t, resp, "liar"); !m.GetRewritten() || m.FirstRewritten != nil || proves(t, resp, 20, root) {
		t.Errorf("with all of them: %v", resp)
	}
	if resp := ask(others{}, 31, root); resp.GetUnproved() == "" || len(resp.GetProof()) > 0 {
		t.Errorf("of more records than there are: %v", resp)
	}
	if _, err := w.asking(nil).VerifyRecords(t.Context(), &controlpb.VerifyRecordsRequest{KeptSize: 3, KeptRoot: []byte{1}}); err == nil {
		t.Error("a root of one byte is taken")
	}
}

func TestGetCheckpoint(t *testing.T) {
	w, own := logWorld(t, 3)
	if _, err := w.api.GetCheckpoint(t.Context(), &controlpb.GetCheckpointRequest{}); err == nil || !strings.Contains(err.Error(), "no checkpoint yet") {
		t.Fatalf("none there: %v", err)
	}
	schedulertest.Update(t, w.store, func(tx *raftstore.Tx) error {
		for _, k := range []string{"b", "a"} {
			if err := pkistore.AuditKeys.Put(tx, &pkipb.AuditKey{Id: k, Key: k}); err != nil {
				return err
			}
		}
		return pkistore.AuditCheckpoints.Put(tx, &pkipb.AuditCheckpoint{Id: pkistore.CheckpointID, Note: []byte("note"), Size: 2,
			Dissents: []*pkipb.AuditDissent{{NodeId: w.manager, Reason: "why", Forked: true}}})
	})
	resp, err := w.api.GetCheckpoint(t.Context(), &controlpb.GetCheckpointRequest{})
	if err != nil || string(resp.GetNote()) != "note" || strings.Join(resp.GetKeys(), " ") != "a b" || resp.GetSize() != own.Log.Size() ||
		len(resp.GetDissents()) != 1 || resp.GetDissents()[0].GetName() != "manager-1" || !resp.GetDissents()[0].GetForked() {
		t.Errorf("%v, %v", resp, err)
	}
}

// TestProveOfFormer: a record is proved in the tree of fewer records, as a kept
// checkpoint is of, and in none of more than there are.
func TestProveOfFormer(t *testing.T) {
	w, own := logWorld(t, 5)
	root, err := own.Root(3)
	if err != nil {
		t.Fatal(err)
	}
	resp, err := w.api.ProveRecord(t.Context(), &controlpb.ProveRecordRequest{Number: 1, Size: 3})
	if err != nil || resp.GetSize() != 3 || string(resp.GetRoot()) != string(root[:]) {
		t.Errorf("%v, %v", resp, err)
	}
	for _, bad := range []*controlpb.ProveRecordRequest{{Number: 3, Size: 3}, {Number: 1, Size: own.Log.Size() + 1}} {
		if resp, err := w.api.ProveRecord(t.Context(), bad); err == nil {
			t.Errorf("%v: %v", bad, resp)
		}
	}
}
