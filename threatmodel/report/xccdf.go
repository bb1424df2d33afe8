package report

import (
	"io"
	"strconv"
	"time"

	"github.com/redoubt-cluster/redoubt/threatmodel/control"
)

// xccdfIDs begins ids, as XCCDF wants them: whose they are, and what.
const xccdfIDs = "xccdf_org.redoubt-cluster_"

// xccdfResults has what XCCDF calls outcomes. What is judged in part and holds,
// or is waived, is "informational", which counts neither way.
var xccdfResults = map[control.Outcome]string{control.Pass: "pass", control.Fail: "fail", control.Error: "error", control.NotApplicable: "notapplicable",
	Partial: "informational", Waived: "informational", NotEvaluated: "notchecked", Outside: "notchecked"}

var xccdfSeverities = map[control.Severity]string{control.Critical: "high", control.High: "high", control.Medium: "medium", control.Low: "low"}

// xccdf writes an XCCDF 1.2 benchmark with its results: rules for the requirements
// and for the controls, and a result for each requirement and for each target of a
// control. The score is of the requirements that were judged in full.
func (r *Report) xccdf(w io.Writer) error {
	m := newMarkup(w)
	m.begin("Benchmark", "xmlns", "http://checklists.nist.gov/xccdf/1.2", "id", xccdfIDs+"benchmark_"+r.Profile.ID, "resolved", "true", "xml:lang", "en")
	m.text("status", "accepted", "date", r.Ended.Format(time.DateOnly))
	m.text("title", r.Profile.Title)
	m.text("description", r.Profile.Source)
	m.text("version", r.Tool)
	severity := r.severities()
	m.begin("Group", "id", xccdfIDs+"group_requirements")
	m.text("title", "Requirements")
	for _, q := range r.Requirements {
		m.begin("Rule", "id", requirementRule(q), "selected", "true", "severity", severity[q.ID])
		m.text("title", q.ID+" "+q.Title)
		m.text("description", "Coverage: "+string(q.Coverage)+". "+q.Note)
		m.end()
	}
	m.end()
	m.begin("Group", "id", xccdfIDs+"group_controls")
	m.text("title", "Controls")
	seen := map[string]bool{}
	for _, x := range r.Results {
		if seen[x.Control] {
			continue
		}
		seen[x.Control] = true
		m.begin("Rule", "id", controlRule(x), "selected", "true", "severity", xccdfSeverities[x.Severity], "weight", "0")
		m.text("title", x.Title)
		m.text("fixtext", x.Remedy)
		m.end()
	}
	m.end()
	r.testResult(m, severity)
	return m.close()
}

func (r *Report) testResult(m *markup, severity map[string]string) {
	m.begin("TestResult", "id", xccdfIDs+"testresult_"+r.ID, "start-time", r.Begun.Format(time.RFC3339), "end-time", r.Ended.Format(time.RFC3339), "version", r.Tool, "test-system", "redoubt")
	m.text("title", r.Profile.Title)
	seen := map[Target]bool{}
	for _, x := range r.Results {
		if !seen[x.Target] {
			m.text("target", x.Target.String())
		}
		seen[x.Target] = true
	}
	if len(seen) == 0 {
		m.text("target", "none") // it must have one
	}
	at := r.Ended.Format(time.RFC3339)
	passed, counted := 0, 0
	for _, q := range r.Requirements {
		switch q.Outcome {
		case control.Pass:
			passed++
			counted++
		case control.Fail, control.Error:
			counted++
		}
		m.begin("rule-result", "idref", requirementRule(q), "time", at, "severity", severity[q.ID])
		m.text("result", xccdfResults[q.Outcome])
		m.text("message", string(q.Outcome), "severity", "info")
		m.end()
	}
	for _, x := range r.Results {
		m.begin("rule-result", "idref", controlRule(x), "time", at, "severity", xccdfSeverities[x.Severity], "weight", "0")
		m.text("result", xccdfResults[x.Outcome])
		if x.Outcome == Waived {
			m.text("message", r.WaiverOf(x).Until(), "severity", "warning")
		}
		kind := "info"
		if bad(x.Outcome) {
			kind = "error"
		}
		for _, e := range x.Evidence {
			m.text("message", e, "severity", kind)
		}
		m.text("instance", x.Target.String(), "context", x.Target.Kind)
		m.end()
	}
	m.text("score", strconv.Itoa(passed), "system", "urn:xccdf:scoring:flat-unweighted", "maximum", strconv.Itoa(max(counted, 1)))
	m.end()
}

func requirementRule(q Requirement) string { return xccdfIDs + "rule_requirement-" + q.ID }
func controlRule(x Result) string          { return xccdfIDs + "rule_control-" + x.Control }

// severities are those of the gravest of each requirement's controls.
func (r *Report) severities() map[string]string {
	of := map[string]control.Severity{}
	for _, x := range r.Results {
		of[x.Control] = x.Severity
	}
	worst := map[string]string{}
	for _, q := range r.Requirements {
		at := len(grave)
		worst[q.ID] = "unknown"
		for _, c := range q.Controls {
			if g, known := grave[of[c]]; known && g < at {
				at, worst[q.ID] = g, xccdfSeverities[of[c]]
			}
		}
	}
	return worst
}
