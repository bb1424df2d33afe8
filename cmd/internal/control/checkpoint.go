package control

import (
	"bytes"
	"context"
	"fmt"
	"slices"

	"google.golang.org/grpc/status"

	"github.com/redoubt-cluster/redoubt/cmd/internal/control/apierr"
	"github.com/redoubt-cluster/redoubt/cmd/internal/control/controlpb"
	pkistore "github.com/redoubt-cluster/redoubt/pki/store"
	"github.com/redoubt-cluster/redoubt/raftstore"
	"github.com/redoubt-cluster/redoubt/raftstore/auditlog"
)

// GetCheckpoint implements controlpb.AuditServer.
func (s *Server) GetCheckpoint(ctx context.Context, req *controlpb.GetCheckpointRequest) (*controlpb.GetCheckpointResponse, error) {
	resp := &controlpb.GetCheckpointResponse{}
	if err := s.view(ctx, func(r *raftstore.ReadTx) error {
		rec, there := pkistore.AuditCheckpoints.Get(r, pkistore.CheckpointID)
		if !there {
			return apierr.State("try again in a minute", "the audit log has no checkpoint yet")
		}
		resp.Note, resp.Witnesses = withWitnesses(r, rec), witnessViews(r, rec)
		if name := req.GetWitness(); name != "" {
			if _, there := pkistore.AuditWitnesses.Get(r, name); !there {
				return noWitness(name)
			}
			l, _ := pkistore.AuditWitnessed.Get(r, name)
			if l.GetLine() == "" {
				return apierr.State("`redoubt audit witness ls` says why", "witness %s has cosigned no checkpoint yet", name)
			}
			resp.Note = append(slices.Clone(l.GetNote()), l.GetLine()...)
		}
		for _, d := range rec.GetDissents() {
			n, _ := pkistore.Nodes.Get(r, d.GetNodeId())
			resp.Dissents = append(resp.Dissents, &controlpb.Dissent{Id: d.GetNodeId(), Name: n.GetName(), Reason: d.GetReason(), Forked: d.GetForked()})
		}
		resp.Keys, resp.Retention = auditKeys(r), retentionView(r)
		return nil
	}); err != nil {
		return nil, err
	}
	log, err := s.c.Store.Records()
	if err != nil {
		return nil, err
	}
	resp.Size = log.Log.Size()
	return resp, nil
}

// holdAgainst proves that the leader's log begins with the one whose root was kept
// outside, and says which managers have another beginning.
func (s *Server) holdAgainst(ctx context.Context, r *auditlog.Reader, req *controlpb.VerifyRecordsRequest, resp *controlpb.VerifyRecordsResponse) error {
	size, kept := req.GetKeptSize(), req.GetKeptRoot()
	switch {
	case size == 0:
		return nil
	case len(kept) != len(auditlog.Hash{}):
		return apierr.Invalid("", "a root of the audit log has 32 bytes")
	case size > resp.GetSize():
		resp.Unproved = "there are fewer records than then"
		return nil
	}
	if dropped, err := s.droppedRecords(); err != nil {
		return err
	} else if size < dropped && size%auditlog.SegmentEntries != 0 {
		resp.Unproved = fmt.Sprintf("the records around the %dth were dropped, which an archive has: hold the checkpoint against that, with --archive", size)
		return nil
	}
	proof, err := r.ProveTree(size, resp.GetSize())
	if err != nil {
		resp.Unproved = status.Convert(err).Message()
	}
	for _, h := range proof {
		resp.Proof = append(resp.Proof, bytes.Clone(h[:]))
	}
	whole := "" // a manager that has what there was
	for _, m := range resp.GetManagers() {
		if m.GetAbsent() != "" || len(m.GetRoot()) == 0 {
			continue
		}
		root, err := s.askRoot(ctx, m.GetId(), size)
		switch {
		case err != nil:
			m.Fault = status.Convert(err).Message()
		case !bytes.Equal(root, kept):
			m.Rewritten = true
		case whole == "":
			whole = m.GetId()
		}
	}
	for _, m := range resp.GetManagers() {
		if m.GetRewritten() && whole != "" {
			first, err := s.firstOther(ctx, whole, m.GetId(), size)
			if err != nil {
				m.Fault = status.Convert(err).Message()
				continue
			}
			m.FirstRewritten = &first
		}
	}
	return nil
}
