package cli

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"strconv"
	"time"

	"github.com/spf13/cobra"

	"github.com/redoubt-cluster/redoubt/cmd/internal/control/controlpb"
	"github.com/redoubt-cluster/redoubt/internal/atomicfile"
	"github.com/redoubt-cluster/redoubt/internal/signedreport"
	"github.com/redoubt-cluster/redoubt/threatmodel/control"
	"github.com/redoubt-cluster/redoubt/threatmodel/report"
)

// statementSuffix is what the file of a statement is called beside its report's.
const statementSuffix = ".dsse"

// signedReport is a report as the leader gave it, and its statement, which is good. Its
// text is what was signed; to people it is shown in this machine's words.
type signedReport struct {
	*report.Report
	number         uint64
	text, envelope []byte
}

// opened checks what the leader sent.
func opened(v *controlpb.SignedReport, keys []string) (*signedReport, error) {
	s := &signedReport{number: v.GetNumber(), text: v.GetReport(), envelope: v.GetEnvelope()}
	st, err := signedreport.Open(s.envelope, keys)
	if err == nil {
		err = st.Check(sha256.Sum256(s.text))
	}
	if err == nil {
		s.Report, err = readSigned(s.text, st)
	}
	if err == nil && (st.Number != v.GetNumber() || s.Profile.ID != v.GetProfile() || s.Compliant != v.GetCompliant()) {
		err = fmt.Errorf("it is report %d by %s, and not as the leader lists it", st.Number, s.Profile.ID)
	}
	if err != nil {
		return nil, failf(ExitError, "what the leader sent is no signed report: %v", err)
	}
	s.InOwnWords(control.All())
	return s, nil
}

// readSigned reads the report that a statement is about. What it says of itself is
// redoubtd's word: it is held against what keyd says.
func readSigned(text []byte, st signedreport.Statement) (*report.Report, error) {
	r, err := report.Read(bytes.NewReader(text))
	if err != nil {
		return nil, fmt.Errorf("it was signed, and does not hold: %w", err)
	}
	if r.Cluster != st.Cluster {
		return nil, errors.New("the report names another cluster than the statement about it")
	}
	if off := st.Signed.Sub(r.Ended); off > maxUntilSigned || off < -maxUntilSigned {
		return nil, fmt.Errorf("the report says that it was made on %s, and it was signed on %s", r.Ended.Format(time.RFC3339), st.Signed.Format(time.RFC3339))
	}
	return r, nil
}

// write writes the report and, beside it, the statement.
func (s *signedReport) write(path string) error {
	if err := atomicfile.Write(path, s.text); err != nil {
		return fmt.Errorf("cannot write %s: %w", path, err)
	}
	if err := atomicfile.Write(path+statementSuffix, s.envelope); err != nil {
		return fmt.Errorf("cannot write %s: %w", path+statementSuffix, err)
	}
	return nil
}

// judgeSigned has the leader judge cluster and nodes by a profile that is built in.
func (a *app) judgeSigned(ctx context.Context, by string) (signed *signedReport, err error) {
	err = a.within(ctx, complianceTimeout, func(ctx context.Context, api *api) error {
		resp, err := api.SignCompliance(ctx, &controlpb.SignComplianceRequest{Profile: by})
		if err != nil {
			return err
		}
		signed, err = opened(resp.GetReport(), resp.GetKeys())
		return err
	})
	return signed, err
}

// signedReportJSON is a signed report in --format json.
type signedReportJSON struct {
	Number    uint64    `json:"number"`
	Profile   string    `json:"profile"`
	Compliant bool      `json:"compliant"`
	Made      time.Time `json:"made"`
	AskedBy   string    `json:"asked_by"`
}

func (a *app) complianceLsCmd() *cobra.Command {
	var out output
	c := &cobra.Command{
		Use: "ls", Aliases: []string{"list"}, Short: "List the signed reports that the cluster keeps",
		Example: `  redoubt compliance ls
  redoubt compliance ls --format '{{.Number}} {{.Compliant}}'`,
		Args: args(0, 0),
		RunE: func(c *cobra.Command, _ []string) error {
			return a.with(c.Context(), func(ctx context.Context, api *api) error {
				resp, err := api.ListReports(ctx, &controlpb.ListReportsRequest{})
				if err != nil {
					return err
				}
				var ids []string
				objects := []signedReportJSON{}
				var rows [][]string
				for _, r := range resp.GetReports() {
					v := signedReportJSON{r.GetNumber(), r.GetProfile(), r.GetCompliant(), unixUTC(r.GetAt()), r.GetAskedBy()}
					id := strconv.FormatUint(v.Number, 10)
					ids, objects = append(ids, id), append(objects, v)
					compliant := "no"
					if v.Compliant {
						compliant = "yes"
					}
					rows = append(rows, []string{id, v.Profile, compliant, v.Made.Format(time.RFC3339), v.AskedBy})
				}
				return out.list(a.Stdout, ids, objects, []string{"NUMBER", "PROFILE", "COMPLIANT", "MADE", "ASKED BY"}, rows)
			})
		},
	}
	out.flags(c, true)
	return c
}

func reportNumbers(ctx context.Context, api *api) (out []string, err error) {
	r, err := api.ListReports(ctx, &controlpb.ListReportsRequest{})
	for _, v := range r.GetReports() {
		out = append(out, strconv.FormatUint(v.GetNumber(), 10))
	}
	return out, err
}

func (a *app) complianceGetCmd() *cobra.Command {
	var to string
	c := &cobra.Command{
		Use:   "get [NUMBER]",
		Short: "Fetch a signed report, the newest where no number is given",
		Long: `get prints a signed report as JSON. With --out it is written to a file, and the
statement that the cluster signed about it to FILE.dsse beside it: keep both where
nobody who runs the cluster can change them.`,
		Example: `  redoubt compliance get 7 --out /mnt/worm/report-7.json`,
		Args:    args(0, 1),
		RunE: func(c *cobra.Command, args []string) error {
			req := &controlpb.GetReportRequest{}
			if len(args) > 0 {
				n, err := strconv.ParseUint(args[0], 10, 64)
				if err != nil || n == 0 {
					return usagef("%q is no number of a report: see `redoubt compliance ls`", args[0])
				}
				req.Number = n
			}
			return a.with(c.Context(), func(ctx context.Context, api *api) error {
				resp, err := api.GetReport(ctx, req)
				if err != nil {
					return err
				}
				signed, err := opened(resp.GetReport(), resp.GetKeys())
				switch {
				case err != nil:
					return err
				case to != "":
					return signed.write(to)
				}
				_, err = a.Stdout.Write(signed.text)
				return err
			})
		},
	}
	c.Flags().StringVar(&to, "out", "", "write report and statement to FILE and FILE.dsse, which only you may read")
	return c
}
