package node

import (
	"context"
	"fmt"
	"time"

	"github.com/redoubt-cluster/redoubt/autolock/keyd/keydpb"
	"github.com/redoubt-cluster/redoubt/cmd/internal/control"
	"github.com/redoubt-cluster/redoubt/raftstore/auditlog"
)

// reportSigner has keyd sign the audit log as it is now, and then a report: else the
// report would name the log as it was when the last checkpoint was made.
type reportSigner struct {
	keyd interface {
		rootSigner
		SignReport(context.Context, *keydpb.SignReportRequest) (*keydpb.SignReportResponse, error)
	}
	records func() (*auditlog.Reader, error)
}

// SignReport implements control.ReportSigner.
func (s reportSigner) SignReport(ctx context.Context, req *keydpb.SignReportRequest) (*keydpb.SignReportResponse, error) {
	r, err := s.records()
	if err != nil {
		return nil, err
	}
	size := r.Log.Size()
	root, err := r.Root(size)
	if err == nil {
		_, err = signRoot(ctx, s.keyd, r, size, root)
	}
	if err != nil {
		return nil, fmt.Errorf("the audit log that the report is to name was not signed: %w", err)
	}
	return s.keyd.SignReport(ctx, req)
}

// reportPoll is how often the leader looks whether a compliance report is due.
const reportPoll = time.Minute

// keepReports is the leader's: it makes the signed reports that the schedule asks for,
// and begins a while after it began to lead, when nodes have come to it: those that have
// not cannot be judged.
func (m *managerState) keepReports(ctx context.Context, api *control.Server) error {
	for {
		if sleep(ctx, reportPoll) != nil {
			return ctx.Err()
		}
		if err := api.ReportIfDue(m.records().Own(ctx, "compliance report")); err != nil && ctx.Err() == nil {
			m.n.log.Warn("the compliance report that is due was not made", "err", err, "retry_in", reportPoll)
		}
	}
}
