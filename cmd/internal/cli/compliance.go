package cli

import (
	"fmt"
	"io"
	"iter"
	"os"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/redoubt-cluster/redoubt/internal/atomicfile"
	"github.com/redoubt-cluster/redoubt/threatmodel/control"
	"github.com/redoubt-cluster/redoubt/threatmodel/profile"
	"github.com/redoubt-cluster/redoubt/threatmodel/report"
)

// Exit codes of `compliance run` and `compliance diff`. Those who run them from a
// scheduler tell a node that does not comply from a check that could not be made;
// they have no other codes.
const (
	exitNotJudged    = 1 // a wrong flag or file, no node, not root
	exitNotCompliant = 2 // a control failed, or something was not evaluated
)

func (a *app) complianceCmd() *cobra.Command {
	c := &cobra.Command{Use: "compliance", Short: "What nodes and cluster promise, checked against their real state"}
	group(c)
	c.AddCommand(a.complianceRunCmd(), a.complianceShowCmd(), a.complianceProfilesCmd(), a.complianceDiffCmd(),
		a.complianceWaiveCmd("waive"), a.complianceWaiverCmd(), a.complianceVerifyCmd(), a.complianceLsCmd(), a.complianceGetCmd(), a.complianceScheduleCmd())
	return c
}

func (a *app) complianceRunCmd() *cobra.Command {
	var (
		format reportFormat
		by     string
		to     string
		before string
		scope  string
		sign   bool
	)
	c := &cobra.Command{
		Use:   "run",
		Short: "Check cluster, services and nodes",
		Long: `run has the cluster's leader judge the cluster, and what its services ask for: keys,
tokens, slots, certificates, clocks, backups, the audit log that every manager has.
Every node judges itself: files, modes and owners, the headers of what is sealed,
sockets, and what the kernel says of the running daemons. It reads no configuration
but to see who may write it, and quotes nothing of what a file holds. A node that does
not answer is an error.

On a manager, as root, the node of --host is judged by the command itself, and not
by its own word. --scope cluster leaves that out, as a context does: it takes the verb
compliance.run and not root. --scope node judges this machine's node alone, as a
worker does: the report has the requirements that such controls judge, in full or in
part, and says so in its profile's name.

--profile names what is asked for: one of ` + "`redoubt compliance profiles`" + `, or a file of
your own by its path. Only controls that it has are run.

--format: table; html, one file to read and print, with --previous also what changed
since an older report; json, which ` + "`compliance diff`" + ` reads;
junit; oscal (1.2.2 assessment-results); prometheus (for node_exporter's textfiles);
sarif (2.1.0); xccdf (1.2); or a Go template that is run for each result.

--sign has the leader make the report, as --scope cluster has it and by a profile that
is built in, and its keyd sign it; it is kept with those before (redoubt compliance ls).
What this command judges itself is signed by nobody. With --format json --out FILE the
signed statement is in FILE.dsse beside it, for redoubt compliance verify.

A control that fails and is waived (redoubt compliance waive) is "waived", and does
not count against the node; a waiver that has ended, or that nothing needs, does.

What could not be evaluated is an error, and never a pass; nor is a requirement that
no control judges yet.

Exit codes of this command: 0 nothing fails and all that is to be judged was, 1 there
is no report (a wrong flag or profile, no node, not root, a file that cannot be
written), 2 a control fails, or something was not evaluated.`,
		Example: `  redoubt compliance run

  # Without root
  redoubt compliance run --scope cluster

  # For an auditor
  redoubt compliance run --profile nist-800-190 --format html --out report.html

  # For an auditor who wants it signed
  redoubt compliance run --sign --format json --out report.json

  # What is new since last week
  redoubt compliance run --format json --out today.json
  redoubt compliance diff last-week.json today.json --fail-on-new`,
		Args: judgedArgs(args(0, 0)),
		RunE: func(c *cobra.Command, _ []string) error {
			if fi, err := os.Lstat(to); err == nil && !fi.Mode().IsRegular() {
				return failf(exitNotJudged, "--out %s: only a file is written over: leave --out away for standard output", to)
			}
			older, err := previous(before, format.String())
			if err != nil {
				return failf(exitNotJudged, "%v", err)
			}
			if sign && scope == scopeNode {
				return failf(exitNotJudged, "--sign goes without --scope node: what this machine says of itself is signed by nobody")
			}
			var (
				r      *report.Report
				signed *signedReport // nil: it is not
			)
			if sign {
				if signed, err = a.judgeSigned(c.Context(), by); err == nil {
					r = signed.Report
				}
			} else {
				r, err = a.judge(c.Context(), by, scope)
			}
			if err == nil && older != nil {
				err = r.CompareWith(older)
			}
			if err != nil {
				return failf(exitNotJudged, "%v", err)
			}
			switch asSigned := signed != nil && format.text == "json"; {
			case asSigned && to == "":
				_, err = a.Stdout.Write(signed.text)
			case asSigned:
				err = signed.write(to)
			case to == "":
				err = a.writeReport(a.Stdout, &format, r)
			default:
				if err = atomicfile.WriteFrom(to, 0o600, func(w io.Writer) error { return a.writeReport(w, &format, r) }); err != nil {
					err = fmt.Errorf("cannot write %s: %w", to, err)
				}
			}
			if err != nil {
				return failf(exitNotJudged, "%v", err)
			}
			text := sum(r)
			if signed != nil {
				text = fmt.Sprintf("signed as report %d: %s", signed.number, text)
			}
			switch {
			case !r.Compliant:
				return failf(exitNotCompliant, "%s: `redoubt compliance show CONTROL` says what to do", text)
			case signed != nil:
				fmt.Fprintln(a.Stderr, text)
			}
			return nil
		},
	}
	judgedFlags(c)
	c.Flags().StringVar(&by, "profile", profile.Baseline, "what is asked for: a profile's name, or the path of a file")
	c.Flags().Var(&format, "format", "table, "+strings.Join(report.Formats(), ", ")+", or a Go template as '{{.Control}} {{.Outcome}}'")
	c.Flags().StringVar(&to, "out", "", "write to a file, which only you may read, in place of standard output")
	c.Flags().StringVar(&scope, "scope", scopeAll, "node: this machine's; cluster: cluster and nodes, by the leader; all: both, where one may ask")
	fixed(c, "scope", scopeAll, scopeCluster, scopeNode)
	c.Flags().BoolVar(&sign, "sign", false, "have the leader make, sign and keep the report of cluster and nodes")
	c.Flags().StringVar(&before, "previous", "", "a report as JSON, to show in an HTML one what changed since")
	fixed(c, "format", append([]string{"table"}, report.Formats()...)...)
	_ = c.RegisterFlagCompletionFunc("profile", profileNames)
	return c
}

// previous is the report that one is shown beside, nil where none was named.
func previous(path, format string) (*report.Report, error) {
	switch {
	case path == "":
		return nil, nil
	case format != "html":
		return nil, fmt.Errorf("--previous is for --format html: use `redoubt compliance diff` for the others")
	}
	return report.ReadFile(path)
}

// reportFormat is --format of a report: table, a form of package report, or a Go
// template that is run for each result.
type reportFormat struct{ formatFlag }

func (f *reportFormat) Set(s string) error {
	switch {
	case slices.Contains(report.Formats(), s):
		f.formatFlag = formatFlag{text: s}
		return nil
	case s != "table" && !strings.Contains(s, "{{"):
		return fmt.Errorf("%q: use table, %s or a template as '{{.Control}}'", s, strings.Join(report.Formats(), ", "))
	}
	return f.formatFlag.Set(s)
}

func (f *reportFormat) Type() string { return "FORMAT" }

func (a *app) writeReport(w io.Writer, f *reportFormat, r *report.Report) error {
	switch {
	case f.tmpl != nil:
		return f.print(w, r.Results)
	case f.String() == "table":
		return reportTable(w, r)
	}
	return r.Write(w, f.text)
}

// reportTable shows what needs somebody last, where a terminal ends.
func reportTable(w io.Writer, r *report.Report) error {
	var rows [][]string
	for _, q := range r.Requirements {
		rows = append(rows, []string{q.ID, string(q.Coverage), string(q.Outcome), q.Title})
	}
	if err := table(w, []string{"REQUIREMENT", "COVERAGE", "OUTCOME", "TITLE"}, rows); err != nil {
		return err
	}
	fmt.Fprintln(w)
	rows = nil
	for x := range folded(slices.Backward(r.Results)) {
		evidence := strings.Join(x.Evidence, "; ")
		if x.Outcome == report.Waived {
			evidence = r.WaiverOf(x).Until() + "; " + evidence
		}
		rows = append(rows, []string{x.Control, strings.TrimPrefix(x.Target.Kind+"/"+x.Target.Name, "/"), string(x.Severity), string(x.Outcome), evidence})
	}
	return table(w, []string{"CONTROL", "TARGET", "SEVERITY", "OUTCOME", "EVIDENCE"}, rows)
}

// folded has what passes, or is not applicable, of several nodes as one result: of all
// of them.
func folded(results iter.Seq2[int, report.Result]) iter.Seq[report.Result] {
	type kind struct {
		control string
		outcome control.Outcome
	}
	of := func(x report.Result) (kind, bool) {
		return kind{x.Control, x.Outcome}, x.Target.Kind == scopeNode && (x.Outcome == control.Pass || x.Outcome == control.NotApplicable)
	}
	count := map[kind]int{}
	for _, x := range results {
		if k, folds := of(x); folds {
			count[k]++
		}
	}
	return func(yield func(report.Result) bool) {
		for _, x := range results {
			k, folds := of(x)
			switch {
			case folds && count[k] == 0:
				continue // told already
			case folds && count[k] > 1:
				x.Target, x.Evidence = report.Target{Name: fmt.Sprintf("%d nodes", count[k])}, nil
			}
			if folds {
				count[k] = 0
			}
			if !yield(x) {
				return
			}
		}
	}
}

// sum says how much does not pass.
func sum(r *report.Report) string {
	_, failed := r.Count(control.Fail)
	_, unknown := r.Count(control.Error)
	text := fmt.Sprintf("of %d results %d failed and %d could not be evaluated", len(r.Results), failed, unknown)
	if _, waived := r.Count(report.Waived); waived > 0 {
		text += fmt.Sprintf(", %d waived", waived)
	}
	if open, _ := r.Count(report.NotEvaluated); open > 0 {
		text += fmt.Sprintf(", and %d of %d requirements have no control yet", open, len(r.Requirements))
	}
	return text
}

// judgedFlags gives wrong flags the exit code of these verbs.
func judgedFlags(c *cobra.Command) {
	c.SetFlagErrorFunc(func(c *cobra.Command, err error) error { return failf(exitNotJudged, "%v", flagError(c, err)) })
}

// judgedArgs gives wrong arguments the verb's own exit code.
func judgedArgs(check cobra.PositionalArgs) cobra.PositionalArgs {
	return func(c *cobra.Command, got []string) error {
		if err := check(c, got); err != nil {
			return failf(exitNotJudged, "%v", err)
		}
		return nil
	}
}

func (a *app) complianceShowCmd() *cobra.Command {
	c := &cobra.Command{
		Use:               "show CONTROL",
		Short:             "What a control reads, and what to do where it fails",
		Example:           `  redoubt compliance show files-own`,
		Args:              args(1, 1),
		ValidArgsFunction: controlNames,
		RunE: func(_ *cobra.Command, args []string) error {
			for _, c := range control.All() {
				if c.ID != args[0] {
					continue
				}
				_, err := fmt.Fprintf(a.Stdout, "Control:   %s\nHolds:     %s\nSeverity:  %s\nScope:     %s\nReads:     %s\nRemedy:    %s\n", c.ID, c.Title, c.Severity, c.Scope, c.Reads, c.Remedy)
				return err
			}
			return noSuchControl(args[0])
		},
	}
	return c
}

func controlNames(_ *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
	if len(args) > 0 {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	return controlIDs(), cobra.ShellCompDirectiveNoFileComp
}

func controlIDs() []string {
	var ids []string
	for _, c := range control.All() {
		ids = append(ids, c.ID)
	}
	return ids
}
