package report

import (
	"io"
	"strconv"
	"strings"
	"time"

	"github.com/redoubt-cluster/redoubt/threatmodel/control"
)

// junit writes what tools of continuous integration read: a suite of the controls,
// and one of the requirements. What was not evaluated is an error there, as a
// test that was skipped is green.
func (r *Report) junit(w io.Writer) error {
	m := newMarkup(w)
	m.begin("testsuites", "name", "redoubt compliance", "time", seconds(r.Ended.Sub(r.Begun).Seconds()))
	outcomes := make([]control.Outcome, len(r.Results))
	for i, x := range r.Results {
		outcomes[i] = x.Outcome
	}
	r.suite(m, "controls", outcomes)
	for _, x := range r.Results {
		m.begin("testcase", "classname", x.Target.String(), "name", x.Control+": "+x.Title, "time", seconds(x.Seconds))
		if x.Outcome == Waived {
			x.Evidence = append([]string{r.WaiverOf(x).Until()}, x.Evidence...)
		}
		junitOutcome(m, x.Outcome, string(x.Severity), strings.Join(append(x.Evidence[:len(x.Evidence):len(x.Evidence)], "Remedy: "+x.Remedy), "\n"))
		m.end()
	}
	m.end()
	outcomes = outcomes[:0]
	for _, q := range r.Requirements {
		outcomes = append(outcomes, q.Outcome)
	}
	r.suite(m, r.Profile.ID, outcomes)
	for _, q := range r.Requirements {
		m.begin("testcase", "classname", r.Profile.ID, "name", q.ID+" "+q.Title)
		junitOutcome(m, q.Outcome, string(q.Coverage), strings.TrimSpace("Controls: "+strings.Join(q.Controls, " ")+"\n"+q.Note))
		m.end()
	}
	m.end()
	return m.close()
}

func (r *Report) suite(m *markup, name string, outcomes []control.Outcome) {
	failures, errors, skipped := 0, 0, 0
	for _, o := range outcomes {
		switch junitElements[o] {
		case "failure":
			failures++
		case "error":
			errors++
		case "skipped":
			skipped++
		}
	}
	m.begin("testsuite", "name", name, "tests", strconv.Itoa(len(outcomes)), "failures", strconv.Itoa(failures), "errors", strconv.Itoa(errors),
		"skipped", strconv.Itoa(skipped), "timestamp", r.Begun.Format(time.RFC3339))
}

var junitElements = map[control.Outcome]string{control.Fail: "failure", control.Error: "error", NotEvaluated: "error", control.NotApplicable: "skipped", Waived: "skipped", Outside: "skipped", Partial: "system-out"}

func junitOutcome(m *markup, o control.Outcome, kind, text string) {
	switch e := junitElements[o]; e {
	case "":
	case "system-out":
		m.text(e, string(o)+": "+text)
	case "skipped":
		m.text(e, map[bool]string{true: text}[o == Waived], "message", string(o))
	default:
		m.text(e, text, "message", string(o), "type", kind)
	}
}

func seconds(s float64) string { return strconv.FormatFloat(s, 'f', 3, 64) }
