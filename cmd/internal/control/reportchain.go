package control

import (
	"bytes"
	"cmp"
	"compress/gzip"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"

	"google.golang.org/protobuf/proto"

	"github.com/redoubt-cluster/redoubt/cmd/internal/control/apierr"
	"github.com/redoubt-cluster/redoubt/cmd/internal/control/controlpb"
	"github.com/redoubt-cluster/redoubt/cmd/internal/roles"
	"github.com/redoubt-cluster/redoubt/pki/pkipb"
	pkistore "github.com/redoubt-cluster/redoubt/pki/store"
	"github.com/redoubt-cluster/redoubt/raftstore"
)

// errNotDue: the schedule was changed, or another leader made the report.
var errNotDue = errors.New("no report is due any more")

// reporting is the state of the chain; empty before the first.
func reporting(r raftstore.Reader) *pkipb.Reporting {
	if rec, there := pkistore.Reporting.Get(r, pkistore.ReportingID); there {
		return rec
	}
	return &pkipb.Reporting{Id: pkistore.ReportingID}
}

// reportID orders reports by their numbers.
func reportID(number uint64) string { return fmt.Sprintf("%020d", number) }

// putReport adds the report behind the one before, in one transaction with the end of
// the chain and of the schedule: two reports never follow the same one, and none is made
// twice because two managers led when it was due.
func putReport(tx *raftstore.Tx, before *pkipb.Reporting, made *pkipb.SignedReport, sum [sha256.Size]byte, due int64) error {
	now := proto.CloneOf(reporting(tx))
	switch {
	case made.GetAskedBy() == nil && now.GetNext() != due:
		return errNotDue
	case !bytes.Equal(now.GetStatementSha256(), before.GetStatementSha256()):
		return apierr.State("try again", "another report was signed meanwhile")
	}
	if err := pkistore.SignedReports.Put(tx, proto.CloneOf(made)); err != nil {
		return err
	}
	now.Number, now.StatementSha256 = made.GetNumber(), sum[:]
	if every := now.GetEvery(); made.GetAskedBy() == nil && every > 0 {
		if now.Next += every; now.Next <= tx.Now().Unix() {
			now.Next = tx.Now().Unix() + every
		}
	}
	if err := pkistore.Reporting.Put(tx, now); err != nil {
		return err
	}
	return dropReports(tx, now)
}

// dropReports takes out the oldest that are not to be kept.
func dropReports(tx *raftstore.Tx, chain *pkipb.Reporting) error {
	var gone []string
	for old := range pkistore.SignedReports.All(tx) {
		if old.GetNumber()+uint64(kept(chain)) <= chain.GetNumber() {
			gone = append(gone, old.GetId())
		}
	}
	for _, id := range gone {
		if err := pkistore.SignedReports.Delete(tx, id); err != nil {
			return err
		}
	}
	return nil
}

func kept(chain *pkipb.Reporting) uint32 { return cmp.Or(chain.GetKeep(), defaultReports) }

// pack compresses a report: what nodes that are well say differs in little but their
// names.
func pack(text []byte) ([]byte, error) {
	if len(text) > maxReport {
		return nil, apierr.Invalid("take a profile with fewer controls", "the report has %d bytes: at most %d are signed and kept", len(text), maxReport)
	}
	var b bytes.Buffer
	z := gzip.NewWriter(&b)
	if _, err := z.Write(text); err != nil {
		return nil, err
	}
	if err := z.Close(); err != nil {
		return nil, err
	}
	if b.Len() > maxPackedReport {
		return nil, apierr.Invalid("take a profile with fewer controls", "the report has %d bytes when it is compressed: at most %d are kept", b.Len(), maxPackedReport)
	}
	return b.Bytes(), nil
}

// unpack is what pack was given.
func unpack(packed []byte) ([]byte, error) {
	z, err := gzip.NewReader(bytes.NewReader(packed))
	if err != nil {
		return nil, fmt.Errorf("a report that is kept: %w", err)
	}
	text, err := io.ReadAll(io.LimitReader(z, maxReport+1))
	if err != nil {
		return nil, fmt.Errorf("a report that is kept: %w", err)
	}
	if len(text) > maxReport {
		return nil, fmt.Errorf("a report that is kept has more than %d bytes", maxReport)
	}
	return text, nil
}

// reportView is a report as callers are told of it, without what it says.
func reportView(r raftstore.Reader, rec *pkipb.SignedReport) *controlpb.SignedReport {
	v := &controlpb.SignedReport{Number: rec.GetNumber(), Profile: rec.GetProfile(), Compliant: rec.GetCompliant(), At: rec.GetAt(), AskedBy: "schedule"}
	if rec.GetAskedBy() != nil {
		v.AskedBy = roles.Named(r, roles.PrincipalOf(rec.GetAskedBy()))
	}
	return v
}

// wholeReport is a reportView with all that is kept.
func wholeReport(r raftstore.Reader, rec *pkipb.SignedReport) (v *controlpb.SignedReport, err error) {
	v = reportView(r, rec)
	v.Envelope = rec.GetEnvelope()
	v.Report, err = unpack(rec.GetReport())
	return v, err
}
