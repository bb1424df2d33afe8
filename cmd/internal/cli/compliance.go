package cli

import (
	"fmt"
	"path/filepath"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/redoubt-cluster/redoubt/threatmodel/control"
)

// Exit codes of `compliance run`. Those who run it from a scheduler tell a node
// that does not comply from a check that could not be made; it has no other codes.
const (
	exitNotJudged    = 1 // a wrong flag, no node, not root
	exitNotCompliant = 2 // a control failed, or could not be evaluated
)

func (a *app) complianceCmd() *cobra.Command {
	c := &cobra.Command{Use: "compliance", Short: "What this node promises, checked against its real state"}
	group(c)
	c.AddCommand(a.complianceRunCmd(), a.complianceShowCmd())
	return c
}

// checked is a result as --format shows it.
type checked struct {
	ID       string   `json:"id"`
	Title    string   `json:"title"`
	Severity string   `json:"severity"`
	Scope    string   `json:"scope"`
	Outcome  string   `json:"outcome"`
	Evidence []string `json:"evidence"`
	Remedy   string   `json:"remedy"`
	Seconds  float64  `json:"seconds"`
}

func (a *app) complianceRunCmd() *cobra.Command {
	var out output
	c := &cobra.Command{
		Use:   "run",
		Short: "Check this node's files, sockets and running daemons",
		Long: `run judges the node of --host on the machine that it is typed on, as root: files,
modes and owners, the headers of what is sealed, sockets, and what the kernel says
of the running daemons. It reads no configuration but to see who may write it, and
quotes nothing of what a file holds.

What could not be evaluated is an error, and never a pass.

Exit codes of this command: 0 every control passes or is of another kind of node,
1 nothing was judged (a wrong flag, no node, not root), 2 a control fails or could
not be evaluated.`,
		Example: `  redoubt compliance run

  # For a program
  redoubt compliance run --format json`,
		Args: judgedArgs(args(0, 0)),
		RunE: func(c *cobra.Command, _ []string) error {
			path, err := a.socketPath()
			if err != nil {
				return failf(exitNotJudged, "%v", err)
			}
			n, err := control.FindNode(filepath.Dir(path))
			if err != nil {
				return failf(exitNotJudged, "%v: run it as root on a machine whose node is up", err)
			}
			results := control.Run(c.Context(), control.All(), n)
			if err := a.showResults(&out, results); err != nil {
				return failf(exitNotJudged, "%v", err)
			}
			if !control.OK(results) {
				return failf(exitNotCompliant, "%s: `redoubt compliance show CONTROL` says what to do", sum(results))
			}
			return nil
		},
	}
	c.SetFlagErrorFunc(func(c *cobra.Command, err error) error { return failf(exitNotJudged, "%v", flagError(c, err)) })
	out.flags(c, false)
	return c
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

func (a *app) showResults(out *output, results []control.Result) error {
	if out.structured() {
		list := make([]checked, len(results))
		for i, r := range results {
			c := r.Control
			list[i] = checked{c.ID, c.Title, string(c.Severity), string(c.Scope), string(r.Outcome), append([]string{}, r.Evidence...), c.Remedy, r.Took.Seconds()}
		}
		return out.objects(a.Stdout, list)
	}
	// What needs somebody comes last, where a terminal ends.
	rank := func(r control.Result) int {
		return slices.Index([]control.Outcome{control.NotApplicable, control.Pass, control.Error, control.Fail}, r.Outcome)
	}
	results = slices.Clone(results)
	slices.SortStableFunc(results, func(x, y control.Result) int { return rank(x) - rank(y) })
	var rows [][]string
	for _, r := range results {
		evidence := strings.Join(r.Evidence, "; ")
		rows = append(rows, []string{r.Control.ID, string(r.Control.Severity), string(r.Outcome), evidence})
	}
	return table(a.Stdout, []string{"CONTROL", "SEVERITY", "OUTCOME", "EVIDENCE"}, rows)
}

// sum says how many controls do not pass.
func sum(results []control.Result) string {
	failed, unknown := 0, 0
	for _, r := range results {
		switch r.Outcome {
		case control.Fail:
			failed++
		case control.Error:
			unknown++
		}
	}
	return fmt.Sprintf("of %d controls %d failed and %d could not be evaluated", len(results), failed, unknown)
}

func (a *app) complianceShowCmd() *cobra.Command {
	c := &cobra.Command{
		Use:     "show CONTROL",
		Short:   "What a control reads, and what to do where it fails",
		Example: `  redoubt compliance show files-own`,
		Args:    args(1, 1),
		ValidArgsFunction: func(*cobra.Command, []string, string) ([]string, cobra.ShellCompDirective) {
			return controlIDs(), cobra.ShellCompDirectiveNoFileComp
		},
		RunE: func(_ *cobra.Command, args []string) error {
			for _, c := range control.All() {
				if c.ID != args[0] {
					continue
				}
				_, err := fmt.Fprintf(a.Stdout, "Control:   %s\nHolds:     %s\nSeverity:  %s\nOf each:   %s\nReads:     %s\nRemedy:    %s\n", c.ID, c.Title, c.Severity, c.Scope, c.Reads, c.Remedy)
				return err
			}
			return fmt.Errorf("no control is called %q: there are %s", args[0], strings.Join(controlIDs(), ", "))
		},
	}
	return c
}

func controlIDs() []string {
	var ids []string
	for _, c := range control.All() {
		ids = append(ids, c.ID)
	}
	return ids
}
