package control

import (
	"bytes"
	"cmp"
	"context"
	"crypto/sha256"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/redoubt-cluster/redoubt/autolock/keyd/keydpb"
	"github.com/redoubt-cluster/redoubt/cmd/internal/control/apierr"
	"github.com/redoubt-cluster/redoubt/cmd/internal/control/controlpb"
	"github.com/redoubt-cluster/redoubt/cmd/internal/control/waivers"
	"github.com/redoubt-cluster/redoubt/internal/ident"
	"github.com/redoubt-cluster/redoubt/internal/oneline"
	"github.com/redoubt-cluster/redoubt/internal/signedreport"
	"github.com/redoubt-cluster/redoubt/pki"
	"github.com/redoubt-cluster/redoubt/pki/pkipb"
	"github.com/redoubt-cluster/redoubt/raftstore"
	checks "github.com/redoubt-cluster/redoubt/threatmodel/control"
	"github.com/redoubt-cluster/redoubt/threatmodel/profile"
	"github.com/redoubt-cluster/redoubt/threatmodel/report"
)

// ReportSigner is keyd.
type ReportSigner interface {
	SignReport(context.Context, *keydpb.SignReportRequest) (*keydpb.SignReportResponse, error)
}

// SignCompliance implements controlpb.ComplianceServer.
func (s *Server) SignCompliance(ctx context.Context, req *controlpb.SignComplianceRequest) (*controlpb.SignComplianceResponse, error) {
	by, err := whoCalls(ctx)
	if err != nil {
		return nil, err
	}
	made, err := s.makeReport(ctx, req.GetProfile(), by.Record(), 0)
	if err != nil {
		return nil, err
	}
	resp := &controlpb.SignComplianceResponse{}
	return resp, s.c.Store.View(func(r *raftstore.ReadTx) (err error) {
		resp.Keys = auditKeys(r)
		resp.Report, err = wholeReport(r, made)
		return err
	})
}

// makeReport judges cluster and nodes by a profile, has keyd sign the report, and keeps
// it. What a caller found on a machine is in none: the leader signs what it judged, and
// what nodes answered to it. Nobody asked for it where by is nil: then it was due at that
// time, in Unix seconds, and where it is due no more, errNotDue tells so.
func (s *Server) makeReport(ctx context.Context, name string, by *pkipb.Principal, due int64) (*pkipb.SignedReport, error) {
	if s.c.Reports == nil {
		return nil, apierr.Unsupported("", "no keyd signs reports here")
	}
	p, err := signable(name)
	if err != nil {
		return nil, err
	}
	r, err := s.judged(ctx, p)
	if err != nil {
		return nil, err
	}
	made := &pkipb.SignedReport{Profile: r.Profile.ID, Compliant: r.Compliant, At: r.Ended.Unix(), AskedBy: by}
	var text bytes.Buffer
	if err := r.Write(&text, "json"); err != nil {
		return nil, err
	}
	if made.Report, err = pack(text.Bytes()); err != nil {
		return nil, err
	}
	select { // one at a time here; putReport sees to other leaders
	case s.chain <- struct{}{}:
		defer func() { <-s.chain }()
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	if err := s.signReport(ctx, made, sha256.Sum256(text.Bytes()), due); err != nil {
		return nil, err
	}
	s.c.Logger.InfoContext(ctx, "a compliance report was signed", "report", made.GetNumber(), "profile", made.GetProfile(), "compliant", made.GetCompliant())
	return made, nil
}

// signReport has keyd sign that the report with that SHA-256 comes after the newest one,
// and keeps both.
func (s *Server) signReport(ctx context.Context, made *pkipb.SignedReport, sum [sha256.Size]byte, due int64) error {
	var before *pkipb.Reporting
	if err := s.view(ctx, func(r *raftstore.ReadTx) error {
		before = reporting(r)
		return nil
	}); err != nil {
		return err
	}
	if made.GetAskedBy() == nil && before.GetNext() != due {
		return errNotDue // before keyd's journal has a report that is in no chain
	}
	made.Number = before.GetNumber() + 1
	made.Id = reportID(made.GetNumber())
	signed, err := s.c.Reports.SignReport(ctx, &keydpb.SignReportRequest{Sha256: sum[:], Number: made.GetNumber(), Previous: before.GetStatementSha256()})
	if err != nil {
		return apierr.State("", "keyd signed no report: %v", oneline.Error(err, maxReason))
	}
	if made.Envelope, err = signedreport.Envelope(s.c.ClusterID, signed.GetStatement(), signed.GetKey(), signed.GetSignature()); err != nil {
		return err
	}
	key := signedreport.Key(s.c.ClusterID, signed.GetKey())
	st, err := signedreport.Open(made.GetEnvelope(), []string{key}) // as who keeps it will
	if err == nil {
		err = st.Check(sum)
	}
	if err == nil && st.Number != made.GetNumber() {
		err = fmt.Errorf("it has the number %d, not %d", st.Number, made.GetNumber())
	}
	if err != nil {
		return fmt.Errorf("what keyd signed is no report: %w", err)
	}
	return s.update(ctx, func(tx *raftstore.Tx) error {
		if err := pki.PutAuditKeys(tx, s.c.ClusterID, tx.Now(), key); err != nil {
			return err
		}
		return putReport(tx, before, made, sha256.Sum256(signed.GetStatement()), due)
	})
}

// signable is a profile by which the leader judges. A name that is a path would read a
// file of this machine.
func signable(name string) (*profile.Profile, error) {
	name = cmp.Or(name, profile.Baseline)
	if !slices.Contains(profile.Names(), name) {
		return nil, apierr.NotFound("a report of your own profile is not signed", "no profile that the leader has is called %q: there are %s", ident.Clip(name), strings.Join(profile.Names(), ", "))
	}
	var known []string
	for _, c := range checks.All() {
		known = append(known, c.ID)
	}
	return profile.Load(name, known)
}

// judged is a report of cluster and nodes, with the waivers that are in force: what
// `compliance run` makes of RunCompliance and ListWaivers where it judges nothing itself.
func (s *Server) judged(ctx context.Context, p *profile.Profile) (*report.Report, error) {
	begun := time.Now()
	var results []report.Result
	err := s.judge(ctx, named(p.Controls()), func(m checks.Member, said []checks.Result) error {
		target := report.Target{Kind: "cluster", Name: "cluster", ID: s.c.ClusterID}
		if m.ID != "" {
			target = report.Target{Kind: "node", Name: m.Name, ID: m.ID}
		}
		results = append(results, report.Of(target, said)...)
		return nil
	})
	if err == nil {
		err = ctx.Err() // what was cut off in the middle of it is nobody's fault
	}
	if err != nil {
		return nil, err
	}
	listed, err := s.ListWaivers(ctx, &controlpb.ListWaiversRequest{})
	if err != nil {
		return nil, err
	}
	return report.New(p, s.c.ClusterID, results, waivers.Approved(listed.GetWaivers()), begun, time.Now())
}
