package control

import (
	"cmp"
	"context"
	"errors"
	"slices"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/redoubt-cluster/redoubt/cmd/internal/control/apierr"
	"github.com/redoubt-cluster/redoubt/cmd/internal/control/controlpb"
	"github.com/redoubt-cluster/redoubt/pki/pkipb"
	pkistore "github.com/redoubt-cluster/redoubt/pki/store"
	"github.com/redoubt-cluster/redoubt/raftstore"
	"github.com/redoubt-cluster/redoubt/threatmodel/profile"
)

// SetComplianceSchedule implements controlpb.ComplianceServer. The first report of a
// schedule is due at once.
func (s *Server) SetComplianceSchedule(ctx context.Context, req *controlpb.SetComplianceScheduleRequest) (*controlpb.SetComplianceScheduleResponse, error) {
	every := time.Duration(req.GetEvery()) * time.Second
	switch {
	case req.GetEvery() != 0 && (req.GetEvery() < 0 || req.GetEvery() > int64(maxReportInterval/time.Second) || every < minReportInterval):
		return nil, apierr.Invalid("", "reports are made each %v to %v", minReportInterval, maxReportInterval)
	case req.GetKeep() > maxReports:
		return nil, apierr.Invalid("fetch those that are to stay: redoubt compliance get", "at most %d signed reports are kept", maxReports)
	}
	if _, err := signable(req.GetProfile()); err != nil {
		return nil, err
	}
	return &controlpb.SetComplianceScheduleResponse{}, s.update(ctx, func(tx *raftstore.Tx) error {
		rec := proto.CloneOf(reporting(tx))
		rec.Every, rec.Next, rec.Profile = req.GetEvery(), 0, ""
		if rec.Every > 0 {
			rec.Next, rec.Profile = tx.Now().Unix(), cmp.Or(req.GetProfile(), profile.Baseline)
		}
		if req.GetKeep() > 0 {
			rec.Keep = req.GetKeep()
		}
		if err := pkistore.Reporting.Put(tx, rec); err != nil {
			return err
		}
		return dropReports(tx, rec)
	})
}

// ReportIfDue makes the report that the schedule asks for. The leader calls it now and
// then; what fails is due still, and whoever leads next makes it.
func (s *Server) ReportIfDue(ctx context.Context) error {
	var chain *pkipb.Reporting
	if err := s.c.Store.View(func(r *raftstore.ReadTx) error {
		chain = reporting(r)
		return nil
	}); err != nil {
		return err
	}
	if chain.GetEvery() == 0 || chain.GetNext() > time.Now().Unix() {
		return nil
	}
	_, err := s.makeReport(ctx, chain.GetProfile(), nil, chain.GetNext())
	if errors.Is(err, errNotDue) {
		return nil
	}
	return err
}

// ListReports implements controlpb.ComplianceServer.
func (s *Server) ListReports(ctx context.Context, _ *controlpb.ListReportsRequest) (*controlpb.ListReportsResponse, error) {
	resp := &controlpb.ListReportsResponse{}
	return resp, s.view(ctx, func(r *raftstore.ReadTx) error {
		for rec := range pkistore.SignedReports.All(r) {
			resp.Reports = append(resp.Reports, reportView(r, rec))
		}
		slices.SortFunc(resp.Reports, func(a, b *controlpb.SignedReport) int { return cmp.Compare(b.GetNumber(), a.GetNumber()) })
		chain := reporting(r)
		resp.Every, resp.Keep, resp.Profile, resp.Next = chain.GetEvery(), kept(chain), chain.GetProfile(), chain.GetNext()
		resp.Keys = auditKeys(r)
		return nil
	})
}

// GetReport implements controlpb.ComplianceServer.
func (s *Server) GetReport(ctx context.Context, req *controlpb.GetReportRequest) (*controlpb.GetReportResponse, error) {
	resp := &controlpb.GetReportResponse{}
	return resp, s.view(ctx, func(r *raftstore.ReadTx) error {
		newest := reporting(r).GetNumber()
		number := cmp.Or(req.GetNumber(), newest)
		rec, there := pkistore.SignedReports.Get(r, reportID(number))
		switch {
		case newest == 0:
			return apierr.NotFound("make one: redoubt compliance run --sign", "no report was signed yet")
		case !there:
			return apierr.NotFound("see `redoubt compliance ls`", "there is no signed report %d, or it is kept no more", number)
		}
		resp.Keys = auditKeys(r)
		var err error
		resp.Report, err = wholeReport(r, rec)
		return err
	})
}

// auditKeys are the keys that verify checkpoints and reports, in one order.
func auditKeys(r raftstore.Reader) (keys []string) {
	for k := range pkistore.AuditKeys.All(r) {
		keys = append(keys, k.GetKey())
	}
	slices.Sort(keys)
	return keys
}
