package control_test

import (
	"context"
	"fmt"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/redoubt-cluster/redoubt/cmd/internal/control/controlpb"
	"github.com/redoubt-cluster/redoubt/internal/checkpoint"
	"github.com/redoubt-cluster/redoubt/pki/authz"
	"github.com/redoubt-cluster/redoubt/pki/pkipb"
	pkistore "github.com/redoubt-cluster/redoubt/pki/store"
	"github.com/redoubt-cluster/redoubt/raftstore"
	"github.com/redoubt-cluster/redoubt/raftstore/auditlog"
	"github.com/redoubt-cluster/redoubt/scheduler/schedulertest"
)

// TestDropRecords: segments are dropped where the caller has their roots, all are old
// enough, and whoever signs the log has signed them; what is said of them after it.
func TestDropRecords(t *testing.T) {
	w := newWorld(t)
	const records = 6*auditlog.SegmentEntries + 10
	var wg sync.WaitGroup
	for i := range 64 {
		wg.Go(func() {
			for n := i; n < records; n += 64 {
				if err := w.store.Update(t.Context(), func(tx *raftstore.Tx) error { return tx.Record(fmt.Append(nil, "record ", n)) }); err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	log, err := w.store.Records()
	if err != nil || log.Log.Segments() != 6 {
		t.Fatal(err)
	}
	api := w.asking(others{"same": copied(t, log), "forked": copied(t, log, 5*auditlog.SegmentEntries+3)})
	at := map[uint64]auditlog.Hash{}
	for _, size := range []uint64{500, auditlog.SegmentEntries, 2 * auditlog.SegmentEntries, 3000, records} {
		if at[size], err = log.Root(size); err != nil {
			t.Fatal(err)
		}
	}
	root := at[records]
	signed := func(size uint64, dissents ...*pkipb.AuditDissent) {
		t.Helper()
		c := checkpoint.Checkpoint{Cluster: w.ca.ClusterID, Incarnation: 1, Size: size, Root: root}
		schedulertest.Update(t, w.store, func(tx *raftstore.Tx) error {
			old, _ := pkistore.AuditCheckpoints.Get(tx, pkistore.CheckpointID)
			return pkistore.AuditCheckpoints.Put(tx, &pkipb.AuditCheckpoint{Meta: old.GetMeta(), Id: pkistore.CheckpointID, Size: size, Note: checkpoint.Note(c), Dissents: dissents})
		})
	}
	witnessed := func(incarnation, size uint64) {
		t.Helper()
		schedulertest.Update(t, w.store, func(tx *raftstore.Tx) error {
			old, _ := pkistore.AuditWitnessed.Get(tx, "w")
			set, _ := pkistore.AuditWitnesses.Get(tx, "w")
			if err := pkistore.AuditWitnesses.Put(tx, &pkipb.AuditWitness{Meta: set.GetMeta(), Id: "w"}); err != nil {
				return err
			}
			return pkistore.AuditWitnessed.Put(tx, &pkipb.AuditWitnessed{Meta: old.GetMeta(), Id: "w", Incarnation: incarnation, Size: size})
		})
	}
	ctx := authz.NewContext(t.Context(), authz.Identity{Person: "alice", Source: &net.TCPAddr{}})
	drop := func(ctx context.Context, first, next uint64, roots ...auditlog.Hash) error {
		digest := auditlog.Digest(first, roots)
		_, err := api.DropRecords(ctx, &controlpb.DropRecordsRequest{First: first, Next: next, Digest: digest[:]})
		return err
	}
	roots := log.Log.Roots()
	refused := func(want string, err error) {
		t.Helper()
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v, want %q", err, want)
		}
	}
	keep := func(d time.Duration) {
		t.Helper()
		if _, err := api.SetRetention(ctx, &controlpb.SetRetentionRequest{Keep: proto.Int64(int64(d / time.Second))}); err != nil {
			t.Fatal(err)
		}
	}
	signed(records)
	refused("records are kept for 90 days at least", drop(ctx, 0, 2, roots[:2]...))
	for _, bad := range []*controlpb.SetRetentionRequest{{}, {Keep: proto.Int64(-1)}, {Keep: proto.Int64(1 << 40)}} {
		_, err = api.SetRetention(ctx, bad)
		refused("0 to 36500 days", err)
	}
	keep(time.Hour)
	refused("kept for 1h0m0s at least", drop(ctx, 0, 2, roots[:2]...))
	keep(0)
	refused("nobody said who calls", drop(t.Context(), 0, 2, roots[:2]...))
	refused("are not those of the audit log", drop(ctx, 0, 2, roots[1], roots[0]))
	refused("are not those of the audit log", drop(ctx, 0, 2, roots[:1]...))
	refused("no segment is from 2", drop(ctx, 2, 2))
	refused("has 4 segments in files, and 5", drop(ctx, 0, 5, roots[:5]...))
	refused("has 4 segments in files", drop(ctx, 0, 1<<40))
	refused("oldest segment that is kept is 0, not 1", drop(ctx, 1, 2, roots[1]))
	signed(2*auditlog.SegmentEntries - 1)
	refused("the newest checkpoint is of 2047 records", drop(ctx, 0, 2, roots[:2]...))
	signed(records, &pkipb.AuditDissent{NodeId: w.manager, Reason: "it is away"})
	refused("has not signed the newest checkpoint", drop(ctx, 0, 2, roots[:2]...))
	signed(records)
	witnessed(1, 2000)
	refused("witness w has cosigned 2000 records", drop(ctx, 0, 2, roots[:2]...))
	witnessed(0, 2000) // of a log that is over
	if err := drop(ctx, 0, 2, roots[:2]...); err != nil {
		t.Fatal(err)
	}
	if err := w.store.DropRecords(2); err != nil { // as its manager does
		t.Fatal(err)
	}
	refused("oldest segment that is kept is 2, not 0", drop(ctx, 0, 2, roots[:2]...))

	_, err = api.ListRecords(ctx, &controlpb.ListRecordsRequest{From: 7, Count: 10})
	refused("record 7 is here no more: segments 0 to 1 were dropped on", err)
	refused("by person:alice, request", err)
	_, err = api.ProveRecord(ctx, &controlpb.ProveRecordRequest{Number: 2047})
	refused("record 2047 is here no more", err)
	if _, err := api.ProveRecord(ctx, &controlpb.ProveRecordRequest{Number: 2048}); err != nil {
		t.Error(err)
	}
	all, err := api.ListRecords(ctx, &controlpb.ListRecordsRequest{Newest: true, Count: 100000})
	if err != nil || len(all.GetRecords()) == 0 || all.GetRecords()[0].GetNumber() < 2048 {
		t.Errorf("the newest: %v", err)
	}
	resp, err := api.VerifyRecords(ctx, &controlpb.VerifyRecordsRequest{})
	if err != nil {
		t.Fatal(err)
	}
	own := resp.GetManagers()[0]
	if own.GetMissing() != 0 || own.GetFault() != "" || byID(t, resp, "same").GetForked() {
		t.Errorf("it is whole but for what was dropped: %v", resp)
	}
	if f := byID(t, resp, "forked"); !f.GetForked() || f.GetFirstForked() != 5*auditlog.SegmentEntries+3 {
		t.Errorf("the one that is forked: %v", f)
	}
	if d := resp.GetRetention().GetDrops(); len(d) != 1 || d[0].GetNext() != 2 || d[0].GetBy() != "person:alice" {
		t.Errorf("%v", d)
	}
	for size, want := range map[uint64]bool{500: false, auditlog.SegmentEntries: true, 2 * auditlog.SegmentEntries: true, 3000: true} {
		kept := at[size]
		resp, err := api.VerifyRecords(ctx, &controlpb.VerifyRecordsRequest{KeptSize: size, KeptRoot: kept[:]})
		if err != nil || (len(resp.GetProof()) > 0) != want || !want && !strings.Contains(resp.GetUnproved(), "--archive") || resp.GetManagers()[0].GetFault() != "" {
			t.Errorf("a checkpoint of %d: %v, %v", size, resp, err)
		}
	}
}
