package control

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/redoubt-cluster/redoubt/cmd/internal/control/controlpb"
	"github.com/redoubt-cluster/redoubt/internal/checkpoint"
	"github.com/redoubt-cluster/redoubt/pki/audit/auditpb"
	pkistore "github.com/redoubt-cluster/redoubt/pki/store"
	"github.com/redoubt-cluster/redoubt/raftstore"
	checks "github.com/redoubt-cluster/redoubt/threatmodel/control"
)

// RunCompliance implements controlpb.ComplianceServer.
func (s *Server) RunCompliance(req *controlpb.RunComplianceRequest, stream controlpb.Compliance_RunComplianceServer) error {
	asked := checks.All()
	if len(req.GetControls()) > 0 {
		asked = named(req.GetControls())
	}
	return s.judge(stream.Context(), asked, func(m checks.Member, results []checks.Result) error {
		for _, r := range results {
			c := r.Control
			err := stream.Send(&controlpb.RunComplianceResponse{Id: c.ID, Title: c.Title, Severity: string(c.Severity), Scope: string(c.Scope), Reads: c.Reads, Remedy: c.Remedy,
				Outcome: string(r.Outcome), Evidence: r.Evidence, Took: int64(r.Took), Cluster: s.c.ClusterID, Node: m.ID, NodeName: m.Name})
			if err != nil {
				return err
			}
		}
		return nil
	})
}

// named are the controls of those ids.
func named(ids []string) []checks.Control {
	return slices.DeleteFunc(checks.All(), func(c checks.Control) bool { return !slices.Contains(ids, c.ID) })
}

// judge runs the controls of the cluster and its services, has every node judge itself,
// and tells what comes of them, of one member at a time; of none: of the cluster.
func (s *Server) judge(ctx context.Context, asked []checks.Control, tell func(checks.Member, []checks.Result) error) error {
	facts, err := s.facts(ctx)
	if err != nil {
		return err
	}
	if err := tell(checks.Member{}, checks.RunCluster(ctx, asked, facts)); err != nil {
		return err
	}
	return s.judgeNodes(ctx, facts.Members, asked, tell)
}

// logsOf has every manager read its audit log. One that answers and has no root is as
// wrong as one with another: whoever has something to hide is silent.
func (s *Server) logsOf(ctx context.Context) (out []checks.ManagerLog, err error) {
	resp, err := s.VerifyRecords(ctx, &controlpb.VerifyRecordsRequest{})
	if err != nil {
		return nil, err
	}
	for _, m := range resp.GetManagers() {
		l := checks.ManagerLog{Manager: cmp.Or(m.GetName(), m.GetId()), Away: m.GetAbsent(), Wrong: m.GetFault(), Missing: m.GetMissing(), Forked: m.GetForked()}
		if l.Wrong == "" && len(m.GetRoot()) == 0 {
			l.Wrong = fmt.Sprintf("gave no root of %d records", resp.GetSize())
		}
		out = append(out, l)
	}
	return out, nil
}

// newestCheckpoint is what the newest one is of, and what has come since.
func (s *Server) newestCheckpoint(ctx context.Context) (c checks.Checkpoint, err error) {
	var note []byte
	if err := s.view(ctx, func(r *raftstore.ReadTx) error {
		rec, _ := pkistore.AuditCheckpoints.Get(r, pkistore.CheckpointID)
		c.Size, note = rec.GetSize(), rec.GetNote()
		for _, d := range rec.GetDissents() {
			c.Dissents = append(c.Dissents, checks.Dissent{Manager: cmp.Or(nodeName(r, d.GetNodeId()), d.GetNodeId()), Reason: d.GetReason()})
		}
		return nil
	}); err != nil {
		return c, err
	}
	log, err := s.records(ctx)
	if err != nil {
		return c, err
	}
	c.Records = log.Log.Size()
	if note != nil || c.Size > 0 {
		_, err := checkpoint.OfLog(note, c.Size, c.Records, log.Root)
		switch { // a leader writes it without a record
		case errors.As(err, new(*checkpoint.ForeignError)):
			c.Size, c.Wrong = 0, fmt.Sprintf("what is kept as the newest checkpoint is none: %v", err)
		case err != nil:
			return c, err
		}
	}
	if c.Size == c.Records {
		return c, nil
	}
	e, err := log.Entry(c.Size)
	if err != nil {
		return c, err
	}
	c.Unsigned = time.Unix(0, e.Clock)
	return c, nil
}

// lastBackup looks for the newest record of a backup that was made to its end, back to
// since. That one was begun is recorded, too, and is none.
func (s *Server) lastBackup(ctx context.Context, since time.Time) (time.Time, error) {
	log, err := s.records(ctx)
	if err != nil {
		return time.Time{}, err
	}
	dropped, err := s.droppedRecords()
	if err != nil {
		return time.Time{}, err
	}
	for n := log.Log.Size(); n > dropped && ctx.Err() == nil; n-- {
		e, err := log.Entry(n - 1)
		if err != nil {
			return time.Time{}, err
		}
		if e.Clock < since.UnixNano() {
			return time.Time{}, nil
		}
		var r auditpb.Record
		if err := proto.Unmarshal(e.Record, &r); err != nil {
			return time.Time{}, fmt.Errorf("record %d of the audit log: %w", n-1, err)
		}
		if r.GetOutcome() == auditpb.Outcome_OUTCOME_DONE && slices.Contains(r.GetVerbs(), "backup.create") {
			return time.Unix(0, e.Clock), nil
		}
	}
	return time.Time{}, ctx.Err()
}
