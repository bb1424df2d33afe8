package cli

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/redoubt-cluster/redoubt/cmd/internal/doctor"
)

func (a *app) doctorCmd() *cobra.Command {
	var out output
	c := &cobra.Command{
		Use:   "doctor",
		Short: "Say what is wrong here, and the command that mends it",
		Long: `doctor looks at this node and, on a manager or by a context, at the cluster: what
does not work, what the next loss would end, what nobody has seen to, and who is
waited for. The worst comes first, each with the commands that mend it. It
changes nothing, and what it may not see it says.

It ends with exit code 3 where something is to be mended; notes alone are 0.
What a node promises of its hardening is judged by redoubt compliance run.`,
		Example: `  redoubt doctor
  redoubt doctor --format '{{range .Findings}}{{.rank}} {{.about}}: {{.what}}{{"\n"}}{{end}}'`,
		Args: args(0, 0),
		RunE: func(c *cobra.Command, _ []string) error { return a.runDoctor(c.Context(), &out) },
	}
	out.flags(c, false)
	return c
}

func (a *app) runDoctor(ctx context.Context, out *output) error {
	facts := &doctor.Facts{Now: time.Now()}
	err := a.with(ctx, func(ctx context.Context, api *api) error {
		facts = doctor.Gather(ctx, api, facts.Now)
		return nil
	})
	if exitCode(err) == ExitUsage {
		return err
	}
	if err != nil {
		facts.Reach = err
	}
	d := doctor.Diagnose(facts)
	if out.structured() {
		if err := out.objects(a.Stdout, d); err != nil {
			return err
		}
	} else if err := a.printDiagnosis(d); err != nil {
		return err
	}
	if n := d.Ill(); n > 0 {
		return failf(ExitNotConverged, "%s to be mended", plural(n, "thing"))
	}
	return nil
}

func (a *app) printDiagnosis(d *doctor.Diagnosis) error {
	var b strings.Builder
	for _, f := range d.Findings {
		fmt.Fprintf(&b, "%s  %s: %s\n", a.rankText(f.Rank), printable(f.About), printable(f.What))
		for _, m := range f.Mend {
			if strings.Contains(f.What, "`"+m+"`") {
				continue // it stands there already
			}
			fmt.Fprintf(&b, "%-8s    %s\n", "", printable(m))
		}
	}
	for _, u := range d.Unseen {
		fmt.Fprintf(&b, "%-8s  %s: %s\n", "unseen", printable(u.What), printable(u.Why))
	}
	if len(d.Findings) == 0 && len(d.Unseen) == 0 {
		b.WriteString("Nothing is wrong.\n")
	}
	_, err := a.Stdout.Write([]byte(b.String()))
	return err
}

// rankText is a rank in its column, coloured where somebody looks.
func (a *app) rankText(r doctor.Rank) string {
	text := fmt.Sprintf("%-8s", r)
	switch r {
	case doctor.Critical:
		return a.coloured(red, text)
	case doctor.Warning:
		return a.coloured(yellow, text)
	}
	return text
}
