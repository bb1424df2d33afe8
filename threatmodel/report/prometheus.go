package report

import (
	"bufio"
	"fmt"
	"io"
	"strings"

	"github.com/redoubt-cluster/redoubt/threatmodel/control"
)

// prometheus writes the text form that node_exporter's textfile collector reads. A
// series for each result and requirement has its outcome as a label; evidence is
// for the other forms.
func (r *Report) prometheus(w io.Writer) error {
	b := bufio.NewWriter(w)
	metric := func(name, help string) { fmt.Fprintf(b, "# HELP %s %s\n# TYPE %[1]s gauge\n", name, help) }
	metric("redoubt_compliance_compliant", "Whether the last report complies: nothing fails, and all that is to be judged was.")
	fmt.Fprintf(b, "redoubt_compliance_compliant{profile=%s} %d\n", label(r.Profile.ID), map[bool]int{true: 1}[r.Compliant])
	metric("redoubt_compliance_timestamp_seconds", "When the last report was made.")
	fmt.Fprintf(b, "redoubt_compliance_timestamp_seconds{profile=%s} %d\n", label(r.Profile.ID), r.Ended.Unix())
	metric("redoubt_compliance_requirement", "Outcome of each requirement in the last report.")
	for _, q := range r.Requirements {
		fmt.Fprintf(b, "redoubt_compliance_requirement{profile=%s,requirement=%s,coverage=%s,outcome=%s} 1\n", label(r.Profile.ID), label(q.ID), label(string(q.Coverage)), label(string(q.Outcome)))
	}
	metric("redoubt_compliance_control", "Outcome of each control for each target in the last report.")
	for _, x := range r.Results {
		fmt.Fprintf(b, "redoubt_compliance_control{profile=%s,control=%s,severity=%s,kind=%s,target=%s,id=%s,outcome=%s} 1\n",
			label(r.Profile.ID), label(x.Control), label(string(x.Severity)), label(x.Target.Kind), label(x.Target.Name), label(x.Target.ID), label(string(x.Outcome)))
	}
	metric("redoubt_compliance_bad", "How many results of the last report fail, or could not be evaluated.")
	for _, o := range []control.Outcome{control.Fail, control.Error} {
		_, n := r.Count(o)
		fmt.Fprintf(b, "redoubt_compliance_bad{profile=%s,outcome=%s} %d\n", label(r.Profile.ID), label(string(o)), n)
	}
	return b.Flush()
}

// label is a label's value, quoted as that form wants it.
func label(s string) string { return `"` + labelEscapes.Replace(s) + `"` }

var labelEscapes = strings.NewReplacer(`\`, `\\`, `"`, `\"`, "\n", `\n`)
