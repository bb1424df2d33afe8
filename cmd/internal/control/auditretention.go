package control

import (
	"bytes"
	"context"
	"fmt"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/redoubt-cluster/redoubt/cmd/internal/control/apierr"
	"github.com/redoubt-cluster/redoubt/cmd/internal/control/controlpb"
	"github.com/redoubt-cluster/redoubt/cmd/internal/roles"
	"github.com/redoubt-cluster/redoubt/internal/checkpoint"
	"github.com/redoubt-cluster/redoubt/pki/audit"
	"github.com/redoubt-cluster/redoubt/pki/pkipb"
	pkistore "github.com/redoubt-cluster/redoubt/pki/store"
	"github.com/redoubt-cluster/redoubt/raftstore"
	"github.com/redoubt-cluster/redoubt/raftstore/auditlog"
)

// SetRetention implements controlpb.AuditServer.
func (s *Server) SetRetention(ctx context.Context, req *controlpb.SetRetentionRequest) (*controlpb.SetRetentionResponse, error) {
	if keep := req.GetKeep(); req.Keep == nil || keep < 0 || keep > int64(maxRetention/time.Second) {
		return nil, apierr.Invalid("", "records are kept for 0 to %d days at least", maxRetention/(24*time.Hour))
	}
	return &controlpb.SetRetentionResponse{}, s.update(ctx, func(tx *raftstore.Tx) error {
		rec := retention(tx)
		rec.Keep = req.Keep
		return pkistore.AuditRetention.Put(tx, rec)
	})
}

// DropRecords implements controlpb.AuditServer. Each manager removes its files when it
// comes to know of it: see package node.
func (s *Server) DropRecords(ctx context.Context, req *controlpb.DropRecordsRequest) (*controlpb.DropRecordsResponse, error) {
	by, err := whoCalls(ctx)
	if err != nil {
		return nil, err
	}
	r, err := s.records(ctx)
	if err != nil {
		return nil, err
	}
	dropped, err := s.droppedRecords()
	if err != nil {
		return nil, err
	}
	first, next := req.GetFirst(), req.GetNext()
	on := r.Log.Segments() - uint64(len(r.Log.Kept())) // those in files
	switch {
	case first >= next:
		return nil, apierr.Invalid("", "no segment is from %d on and before %d", first, next)
	case first != dropped/auditlog.SegmentEntries:
		return nil, notOldest(first, dropped/auditlog.SegmentEntries)
	case next > on:
		return nil, apierr.State("leave the newest ones: --below RECORD", "the audit log has %d segments in files, and %d were asked to be dropped", on, next)
	}
	if digest := auditlog.Digest(first, r.Log.Roots()[first:next]); !bytes.Equal(digest[:], req.GetDigest()) {
		return nil, apierr.State("see `redoubt audit verify --archive`", "%s of the archive are not those of the audit log: nothing was dropped", segments(first, next))
	}
	last, err := r.Entry(next*auditlog.SegmentEntries - 1)
	if err != nil {
		return nil, unreadable(err)
	}
	err = s.update(ctx, func(tx *raftstore.Tx) error {
		rec := retention(tx)
		if dropped := pkistore.DroppedSegments(tx); dropped != first { // somebody else was first
			return notOldest(first, dropped)
		}
		if len(rec.GetDrops()) >= maxDrops {
			return apierr.State("", "records were dropped %d times, and no more often is written down", maxDrops)
		}
		if age := tx.Now().Sub(time.Unix(0, last.Clock)); age < keptFor(rec) {
			return apierr.State("leave the younger ones with --below RECORD; `redoubt audit retention` says how long they are kept", "record %d is %s old: records are kept for %s at least", next*auditlog.SegmentEntries-1, days(age), days(keptFor(rec)))
		}
		if err := provable(tx, next*auditlog.SegmentEntries); err != nil {
			return err
		}
		rec.Drops = append(rec.Drops, &pkipb.AuditDrop{First: first, Next: next, Digest: req.GetDigest(), At: tx.Now().Unix(), By: by.Record(), Request: audit.Request(ctx)})
		return pkistore.AuditRetention.Put(tx, rec)
	})
	if err != nil {
		return nil, err
	}
	s.c.Logger.InfoContext(ctx, "segments of the audit log are dropped, which somebody keeps elsewhere", "segments", segments(first, next))
	return &controlpb.DropRecordsResponse{}, nil
}

func notOldest(first, dropped uint64) error {
	return apierr.State("give an archive of those from there on", "the oldest segment that is kept is %d, not %d", dropped, first)
}

// provable refuses to drop what somebody needs who signs the log as it goes on: a proof
// from where a keyd or a witness is to where the log is goes through the records there.
func provable(r raftstore.Reader, size uint64) error {
	newest, _ := pkistore.AuditCheckpoints.Get(r, pkistore.CheckpointID)
	if newest.GetSize() < size {
		return apierr.State("try again in a minute", "the newest checkpoint is of %d records, and %d are to be dropped", newest.GetSize(), size)
	}
	for _, d := range newest.GetDissents() {
		return apierr.State("see `redoubt audit checkpoint`, and try again when all managers sign", "manager %s has not signed the newest checkpoint: it could not follow any more", nodeName(r, d.GetNodeId()))
	}
	c, err := checkpoint.Parse(checkpoint.TextOf(newest.GetNote()))
	if err != nil {
		return err
	}
	for w := range pkistore.AuditWitnesses.All(r) {
		if l, _ := pkistore.AuditWitnessed.Get(r, w.GetId()); l.GetIncarnation() == c.Incarnation && l.GetSize() > 0 && l.GetSize() < size {
			return apierr.State("see `redoubt audit witness ls`, and wait for it or remove it", "witness %s has cosigned %d records, and %d are to be dropped: it could not follow any more", w.GetId(), l.GetSize(), size)
		}
	}
	return nil
}

// retention is the record of what is kept, for changing.
func retention(r raftstore.Reader) *pkipb.AuditRetention {
	rec, there := pkistore.AuditRetention.Get(r, pkistore.RetentionID)
	if !there {
		return &pkipb.AuditRetention{Id: pkistore.RetentionID}
	}
	return proto.CloneOf(rec)
}

// keptFor is how long records are kept at least: 90 days where nobody said.
func keptFor(rec *pkipb.AuditRetention) time.Duration {
	if rec.Keep == nil {
		return defaultRetention
	}
	return time.Duration(rec.GetKeep()) * time.Second
}

func days(d time.Duration) string {
	if d < 48*time.Hour {
		return d.Round(time.Second).String()
	}
	return fmt.Sprintf("%d days", d/(24*time.Hour))
}

func segments(first, next uint64) string {
	if next == first+1 {
		return fmt.Sprintf("segment %d", first)
	}
	return fmt.Sprintf("segments %d to %d", first, next-1)
}

func retentionView(r raftstore.Reader) *controlpb.RetentionView {
	rec := retention(r)
	v := &controlpb.RetentionView{Keep: int64(keptFor(rec) / time.Second)}
	for _, d := range rec.GetDrops() {
		v.Drops = append(v.Drops, &controlpb.DropView{First: d.GetFirst(), Next: d.GetNext(), At: d.GetAt(), By: roles.Named(r, roles.PrincipalOf(d.GetBy())), Request: d.GetRequest()})
	}
	return v
}

// droppedRecords is how many of the log's records, the first ones, were dropped.
func (s *Server) droppedRecords() (n uint64, err error) {
	err = s.c.Store.View(func(r *raftstore.ReadTx) error {
		n = pkistore.DroppedSegments(r) * auditlog.SegmentEntries
		return nil
	})
	return n, err
}

// whereDropped is an error that says where a record is to be had that was dropped; nil
// where it was not.
func (s *Server) whereDropped(number uint64) error {
	return s.c.Store.View(func(r *raftstore.ReadTx) error {
		for _, d := range retentionView(r).GetDrops() {
			if number < d.GetNext()*auditlog.SegmentEntries {
				return apierr.State(fmt.Sprintf("it is in the archive that was made of it: `redoubt audit show %d --archive DIR --keys FILE`", number),
					"record %d is here no more: %s were dropped on %s by %s, request %s, and records from %d on are here", number, segments(d.GetFirst(), d.GetNext()),
					time.Unix(d.GetAt(), 0).UTC().Format(time.RFC3339), d.GetBy(), d.GetRequest(), pkistore.DroppedSegments(r)*auditlog.SegmentEntries)
			}
		}
		return nil
	})
}
