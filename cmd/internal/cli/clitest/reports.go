package clitest

import (
	"bytes"
	"cmp"
	"context"
	"crypto/ed25519"
	"crypto/sha256"
	"slices"
	"time"

	"github.com/redoubt-cluster/redoubt/cmd/internal/control/apierr"
	"github.com/redoubt-cluster/redoubt/cmd/internal/control/controlpb"
	"github.com/redoubt-cluster/redoubt/internal/signedreport"
	"github.com/redoubt-cluster/redoubt/threatmodel/control"
	"github.com/redoubt-cluster/redoubt/threatmodel/profile"
	"github.com/redoubt-cluster/redoubt/threatmodel/report"
)

// reportedAt is when all of them are made.
var reportedAt = time.Date(2125, 1, 2, 3, 4, 5, 0, time.UTC)

// reportSigner is the key of all clusters: they differ by their names.
func reportSigner() ed25519.PrivateKey {
	return ed25519.NewKeyFromSeed(bytes.Repeat([]byte{3}, ed25519.SeedSize))
}

func reportKey(cluster string) string {
	return signedreport.Key(cluster, reportSigner().Public().(ed25519.PublicKey))
}

// reported is the cluster that reports are of: a node with a manager away is in
// another one.
func (n *Node) reported() string {
	if n.away {
		return "cbcdefghijklmnopqrstuvwxya"
	}
	return "abcdefghijklmnopqrstuvwxya"
}

// SignCompliance implements Compliance: every control passes, of two nodes too; where a
// manager is away one fails.
func (n *Node) SignCompliance(_ context.Context, req *controlpb.SignComplianceRequest) (*controlpb.SignComplianceResponse, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if err := n.manager(); err != nil {
		return nil, err
	}
	if !slices.Contains(profile.Names(), req.GetProfile()) {
		return nil, apierr.NotFound("", "no profile that the leader has is called %q", req.GetProfile())
	}
	var ids []string
	var results []report.Result
	for _, c := range control.All() {
		ids = append(ids, c.ID)
		targets := []report.Target{{Kind: "node", Name: "manager-1", ID: "node-1"}, {Kind: "node", Name: "worker-1", ID: "node-2"}}
		if c.OfCluster() {
			targets = []report.Target{{Kind: "cluster", Name: "cluster", ID: n.reported()}}
		}
		r := control.Result{Control: c, Outcome: control.Pass, Evidence: []string{"1 looked at"}}
		if n.away && c.ID == "slots-no-file" {
			r.Outcome = control.Fail
		}
		for _, t := range targets {
			results = append(results, report.Of(t, []control.Result{r})...)
		}
	}
	p, err := profile.Load(req.GetProfile(), ids)
	if err != nil {
		return nil, err
	}
	r, err := report.New(p, n.reported(), results, nil, reportedAt.Add(-time.Second), reportedAt)
	if err != nil {
		return nil, err
	}
	var text bytes.Buffer
	if err := r.Write(&text, "json"); err != nil {
		return nil, err
	}
	st := signedreport.Statement{Cluster: n.reported(), Manager: "bbcdefghijklmnopqrstuvwxya", Incarnation: 1,
		Number: uint64(len(n.reports)) + 1, Signed: reportedAt, Records: 3}
	if len(n.reports) > 0 {
		last, err := signedreport.Open(n.reports[len(n.reports)-1].GetEnvelope(), []string{reportKey(n.reported())})
		if err != nil {
			return nil, err
		}
		if st.Previous, err = last.Sum(); err != nil {
			return nil, err
		}
	}
	envelope, err := signReport(st, text.Bytes())
	if err != nil {
		return nil, err
	}
	v := &controlpb.SignedReport{Number: st.Number, Report: text.Bytes(), Envelope: envelope, Profile: r.Profile.ID, Compliant: r.Compliant, At: st.Signed.Unix(), AskedBy: "root:m1"}
	n.reports = append(n.reports, v)
	return &controlpb.SignComplianceResponse{Report: v, Keys: []string{reportKey(n.reported())}}, nil
}

// signReport signs a statement once it is about that report.
func signReport(st signedreport.Statement, report []byte) ([]byte, error) {
	st.SHA256 = sha256.Sum256(report)
	text, err := st.Text()
	if err != nil {
		return nil, err
	}
	key := reportSigner()
	return signedreport.Envelope(st.Cluster, text, key.Public().(ed25519.PublicKey), ed25519.Sign(key, signedreport.Message(text)))
}

// ResignReport signs another report in the place of one that a fake signed, as a leader
// that was taken over can have it signed.
func ResignReport(cluster string, envelope, report []byte) ([]byte, error) {
	st, err := signedreport.Open(envelope, []string{reportKey(cluster)})
	if err != nil {
		return nil, err
	}
	return signReport(st, report)
}

// ListReports implements Compliance.
func (n *Node) ListReports(context.Context, *controlpb.ListReportsRequest) (*controlpb.ListReportsResponse, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	resp := &controlpb.ListReportsResponse{Keep: cmp.Or(n.schedule.GetKeep(), 10), Keys: []string{reportKey(n.reported())}}
	for _, r := range slices.Backward(n.reports) {
		resp.Reports = append(resp.Reports, &controlpb.SignedReport{Number: r.GetNumber(), Profile: r.GetProfile(), Compliant: r.GetCompliant(), At: r.GetAt(), AskedBy: r.GetAskedBy()})
	}
	if resp.Every = n.schedule.GetEvery(); resp.Every > 0 {
		resp.Profile, resp.Next = cmp.Or(n.schedule.GetProfile(), profile.Baseline), reportedAt.Unix()
	}
	return resp, n.manager()
}

// GetReport implements Compliance.
func (n *Node) GetReport(_ context.Context, req *controlpb.GetReportRequest) (*controlpb.GetReportResponse, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	number := cmp.Or(req.GetNumber(), uint64(len(n.reports)))
	if number == 0 || number > uint64(len(n.reports)) {
		return nil, apierr.NotFound("see `redoubt compliance ls`", "there is no signed report %d", number)
	}
	return &controlpb.GetReportResponse{Report: n.reports[number-1], Keys: []string{reportKey(n.reported())}}, nil
}

// SetComplianceSchedule implements Compliance.
func (n *Node) SetComplianceSchedule(_ context.Context, req *controlpb.SetComplianceScheduleRequest) (*controlpb.SetComplianceScheduleResponse, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if err := n.manager(); err != nil {
		return nil, err
	}
	n.schedule = req
	return &controlpb.SetComplianceScheduleResponse{}, nil
}
