package cli

import (
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"github.com/redoubt-cluster/redoubt/threatmodel/report"
)

func (a *app) complianceDiffCmd() *cobra.Command {
	var (
		out       output
		failOnNew bool
	)
	c := &cobra.Command{
		Use:   "diff OLDER NEWER",
		Short: "What a report has that an older one had not",
		Long: `diff compares two reports that ` + "`compliance run --format json`" + ` wrote, of the same
profile, and shows what is new, what is judged less, what is gone and what is resolved.
New is what is bad and was not, or has evidence that it did not have, waived or not;
what could not be evaluated is as bad as what fails. Less is what was judged and now
does not apply, or in part alone. Profiles are the same where their contents are.
It looks for no signature: redoubt compliance verify does, of reports that the leader
signed. Keep others where only those write whom you trust.

Exit codes of this command: 0 there is nothing new, or nobody asked; 1 the reports
cannot be compared; 2 with --fail-on-new, something is new, less or gone.`,
		Example: `  redoubt compliance diff last-week.json today.json
  redoubt compliance diff last-week.json today.json --fail-on-new`,
		Args: judgedArgs(args(2, 2)),
		RunE: func(_ *cobra.Command, args []string) error {
			changes, err := compareFiles(args[0], args[1])
			if err != nil {
				return failf(exitNotJudged, "%v", err)
			}
			if err := a.showChanges(&out, changes); err != nil {
				return failf(exitNotJudged, "%v", err)
			}
			fresh := 0
			for _, x := range changes {
				if x.Hides() {
					fresh++
				}
			}
			if failOnNew && fresh > 0 {
				return failf(exitNotCompliant, "%s: `redoubt compliance show CONTROL` says what to do", plural(fresh, "new finding"))
			}
			return nil
		},
	}
	judgedFlags(c)
	out.flags(c, false)
	c.Flags().BoolVar(&failOnNew, "fail-on-new", false, "end with 2 where something is new, less or gone")
	return c
}

func compareFiles(older, newer string) ([]report.Change, error) {
	a, err := report.ReadFile(older)
	if err != nil {
		return nil, err
	}
	b, err := report.ReadFile(newer)
	if err != nil {
		return nil, err
	}
	return report.Compare(a, b)
}

func (a *app) showChanges(out *output, changes []report.Change) error {
	if out.structured() {
		return out.objects(a.Stdout, changes)
	}
	if len(changes) == 0 {
		_, err := fmt.Fprintln(a.Stdout, "Nothing changed.")
		return err
	}
	var rows [][]string
	for _, x := range changes {
		rows = append(rows, []string{x.Change, x.Kind, x.ID, x.Target, x.From + " → " + x.To, strings.Join(x.Evidence, "; ")})
	}
	return table(a.Stdout, []string{"CHANGE", "OF", "ID", "TARGET", "OUTCOME", "NEW EVIDENCE"}, rows)
}
