package cli

import (
	"cmp"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io/fs"
	"time"

	"github.com/spf13/cobra"

	"github.com/redoubt-cluster/redoubt/cmd/internal/control/controlpb"
	"github.com/redoubt-cluster/redoubt/internal/atomicfile"
	"github.com/redoubt-cluster/redoubt/internal/signedreport"
)

func (a *app) complianceVerifyCmd() *cobra.Command {
	var signature, before, keysPath, kept string
	c := &cobra.Command{
		Use:   "verify REPORT",
		Short: "Check who signed a report, and what came before it",
		Long: `verify checks that a report is the one that the cluster signed, by the statement in
REPORT.dsse beside it, that what it says of itself is what its results say, and tells
when it was signed and how long the audit log was then. With --previous it checks as
well that the older report is the one that came just before it, which tells of reports
that were left out or made twice; with --checkpoint, that the audit log it names can be
that of a checkpoint that was kept.

With --keys it asks nobody, and needs no cluster: the file is what redoubt audit
checkpoint --keys prints, kept from when the cluster was trusted. Without, the cluster
tells its keys, and its word is all there is for them.

That a report was signed says that the cluster's leader made it, and when. A leader
that was taken over can have any report signed.`,
		Example: `  redoubt compliance verify report-7.json --previous report-6.json --keys /mnt/worm/keys

  # Against what was kept of the audit log, too
  redoubt compliance verify report-7.json --keys /mnt/worm/keys --checkpoint /mnt/worm/checkpoint.2027-01-31`,
		Args: args(1, 1),
		RunE: func(c *cobra.Command, args []string) error {
			path := args[0]
			keys, whose, err := a.reportKeys(c.Context(), keysPath)
			if err != nil {
				return err
			}
			st, err := verifySigned(path, cmp.Or(signature, path+statementSuffix), keys, whose)
			if err != nil {
				return err
			}
			chain := "What came before it was not looked at."
			switch {
			case before != "":
				older, err := verifySigned(before, before+statementSuffix, keys, whose)
				if err != nil {
					return err
				}
				if err := st.Follows(older); err != nil {
					return failf(ExitError, "%s: %v", path, err)
				}
				chain = "The one before it is " + before + "."
			case st.Number == 1:
				chain = "It is the first."
			}
			if kept != "" {
				if err := fitsKept(st, path, kept, keys, whose); err != nil {
					return err
				}
				chain += "\nNothing in " + kept + " speaks against the audit log that it names."
			}
			_, err = fmt.Fprintf(a.Stdout, "%s is report %d of cluster %s, as it was signed on %s at its manager %s, when the audit log had %d records.\n%s\n",
				path, st.Number, st.Cluster, st.Signed.Format(time.RFC3339), st.Manager, st.Records, chain)
			return err
		},
	}
	f := c.Flags()
	f.StringVar(&signature, "signature", "", "the signed statement (default: REPORT.dsse)")
	f.StringVar(&before, "previous", "", "the report that came before, with its .dsse beside it")
	f.StringVar(&keysPath, "keys", "", "a file with the keys of the cluster, to ask nobody")
	f.StringVar(&kept, "checkpoint", "", "a checkpoint of the audit log that was kept")
	return c
}

// fitsKept holds a statement against the file of a checkpoint.
func fitsKept(st signedreport.Statement, path, kept string, keys []string, whose string) error {
	k, err := readKept(kept, "")
	if err != nil {
		return err
	}
	signed, err := k.signedBy(keys, whose)
	if err != nil {
		return err
	}
	if err := st.Fits(signed); err != nil {
		return failf(ExitError, "%s: %v", path, err)
	}
	return nil
}

// reportKeys are the keys of a file, or those that the cluster tells, and whose that
// is in words.
func (a *app) reportKeys(ctx context.Context, path string) (keys []string, whose string, err error) {
	if path != "" {
		keys, err = readKeys(path)
		return keys, "in " + path, err
	}
	err = a.with(ctx, func(ctx context.Context, api *api) error {
		resp, err := api.ListReports(ctx, &controlpb.ListReportsRequest{})
		keys = resp.GetKeys()
		return err
	})
	return keys, "known to the cluster", err
}

// verifySigned holds the file of a report against its statement.
func verifySigned(path, signature string, keys []string, whose string) (signedreport.Statement, error) {
	var st signedreport.Statement
	envelope, err := atomicfile.ReadBounded(signature, signedreport.MaxEnvelope)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return st, failf(ExitError, "%s is not there, the statement that the cluster signed about %s: redoubt compliance run --sign and redoubt compliance get --out write both", signature, path)
	case err != nil:
		return st, failf(ExitError, "reading the signed statement: %v", err)
	}
	text, err := atomicfile.ReadBounded(path, maxSignedReport)
	if err != nil {
		return st, failf(ExitError, "reading the report: %v", err)
	}
	st, err = signedreport.Open(envelope, keys)
	switch {
	case errors.As(err, new(signedreport.UnknownKeyError)):
		return st, failf(ExitError, "nobody whose key is %s has signed %s", whose, signature)
	case err != nil:
		return st, failf(ExitError, "%s: %v", signature, err)
	}
	if err := st.Check(sha256.Sum256(text)); err != nil {
		return st, failf(ExitError, "%s: %v", path, err)
	}
	if _, err := readSigned(text, st); err != nil {
		return st, failf(ExitError, "%s: %v", path, err)
	}
	return st, nil
}
