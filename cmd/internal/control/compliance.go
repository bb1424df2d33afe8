package control

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/redoubt-cluster/redoubt/cmd/internal/control/controlpb"
	"github.com/redoubt-cluster/redoubt/pki/audit/auditpb"
	checks "github.com/redoubt-cluster/redoubt/threatmodel/control"
)

// RunCompliance implements controlpb.ComplianceServer.
func (s *Server) RunCompliance(req *controlpb.RunComplianceRequest, stream controlpb.Compliance_RunComplianceServer) error {
	ctx := stream.Context()
	facts, err := s.facts(ctx)
	if err != nil {
		return err
	}
	asked := checks.All()
	if len(req.GetControls()) > 0 {
		asked = slices.DeleteFunc(asked, func(c checks.Control) bool { return !slices.Contains(req.GetControls(), c.ID) })
	}
	for _, r := range checks.RunCluster(ctx, asked, facts) {
		c := r.Control
		err := stream.Send(&controlpb.RunComplianceResponse{Id: c.ID, Title: c.Title, Severity: string(c.Severity), Scope: string(c.Scope),
			Reads: c.Reads, Remedy: c.Remedy, Outcome: string(r.Outcome), Evidence: r.Evidence, Took: int64(r.Took), Cluster: s.c.ClusterID})
		if err != nil {
			return err
		}
	}
	return nil
}

// logsOf has every manager read its audit log.
func (s *Server) logsOf(ctx context.Context) (out []checks.ManagerLog, err error) {
	resp, err := s.VerifyRecords(ctx, &controlpb.VerifyRecordsRequest{})
	if err != nil {
		return nil, err
	}
	for _, m := range resp.GetManagers() {
		out = append(out, checks.ManagerLog{Manager: cmp.Or(m.GetName(), m.GetId()), Away: m.GetAbsent(), Wrong: m.GetFault(), Missing: m.GetMissing(), Forked: m.GetForked()})
	}
	return out, nil
}

// lastBackup looks for the newest record of a backup, back to since.
func (s *Server) lastBackup(ctx context.Context, since time.Time) (time.Time, error) {
	log, err := s.records(ctx)
	if err != nil {
		return time.Time{}, err
	}
	for n := log.Log.Size(); n > 0 && ctx.Err() == nil; n-- {
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
		if r.GetOutcome() == auditpb.Outcome_OUTCOME_READ && slices.Contains(r.GetVerbs(), "backup.create") {
			return time.Unix(0, e.Clock), nil
		}
	}
	return time.Time{}, ctx.Err()
}
