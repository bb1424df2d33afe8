package report

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/redoubt-cluster/redoubt/internal/oneline"
	"github.com/redoubt-cluster/redoubt/internal/secretforms"
	"github.com/redoubt-cluster/redoubt/internal/version"
	"github.com/redoubt-cluster/redoubt/threatmodel/control"
	"github.com/redoubt-cluster/redoubt/threatmodel/profile"
)

// Of are the results that controls gave of a target.
func Of(t Target, results []control.Result) []Result {
	all := make([]Result, len(results))
	for i, r := range results {
		c := r.Control
		all[i] = Result{Control: c.ID, Title: c.Title, Severity: c.Severity, Target: t, Outcome: r.Outcome, Evidence: r.Evidence, Remedy: c.Remedy, Seconds: r.Took.Seconds()}
	}
	return all
}

// New judges results by a profile. It keeps those of the profile's controls, lets
// waivers that are approved have their effect, and orders them: what fails first, by
// severity. The times are of the run.
func New(p *profile.Profile, cluster string, results []Result, waivers []Waiver, begun, ended time.Time) (*Report, error) {
	r := &Report{Version: formVersion, ID: newUUID(), Tool: "redoubt " + version.String(), Cluster: text(cluster), Begun: begun.UTC(), Ended: ended.UTC(),
		Profile: Profile{p.ID, text(p.Title), text(p.Source), p.SHA256}, Requirements: []Requirement{}, Results: []Result{}}
	wanted := p.Controls()
	for _, x := range results {
		if _, found := slices.BinarySearch(wanted, x.Control); !found {
			continue
		}
		if len(r.Results) == maxResults {
			return nil, fmt.Errorf("more than %d results: take a profile with fewer controls", maxResults)
		}
		r.Results = append(r.Results, clean(x))
	}
	r.waive(waivers, wanted)
	r.sort()
	said := r.said()
	for _, q := range p.Requirements {
		r.Requirements = append(r.Requirements, Requirement{q.ID, text(q.Title), text(q.Family), q.Coverage, q.Controls, text(q.Note), judge(q, said)})
	}
	r.Compliant = r.complies()
	return r, nil
}

// sort puts what is bad first.
func (r *Report) sort() {
	slices.SortStableFunc(r.Results, func(a, b Result) int {
		return cmp.Or(rank[a.Outcome]-rank[b.Outcome], grave[a.Severity]-grave[b.Severity], strings.Compare(a.Control, b.Control), strings.Compare(a.Target.String(), b.Target.String()))
	})
}

// said counts the outcomes of each control.
func (r *Report) said() map[string]map[control.Outcome]int {
	said := map[string]map[control.Outcome]int{}
	for _, x := range r.Results {
		if said[x.Control] == nil {
			said[x.Control] = map[control.Outcome]int{}
		}
		said[x.Control][x.Outcome]++
	}
	return said
}

// InOwnWords takes what controls are called, how bad it is where they fail, and above all
// which command mends them, from those that are known here: somebody will run that, and it
// is not for who made the report to say.
func (r *Report) InOwnWords(known []control.Control) {
	waivers := r.ofWaivers()
	for i := range r.Results {
		x := &r.Results[i]
		at := slices.IndexFunc(known, func(c control.Control) bool { return c.ID == x.Control })
		switch {
		case at >= 0:
			x.Title, x.Severity, x.Remedy = known[at].Title, known[at].Severity, known[at].Remedy
		case x.Control == WaiversControl:
			x.Title, x.Severity, x.Remedy = waivers.Title, waivers.Severity, waivers.Remedy
		default:
			x.Title, x.Remedy = x.Control, "redoubt here is older than the control: upgrade it"
		}
	}
	r.sort()
}

// judge is what comes of a requirement by what its controls said of all targets.
func judge(q profile.Requirement, said map[string]map[control.Outcome]int) control.Outcome {
	switch q.Coverage {
	case profile.Outside:
		return Outside
	case profile.Full, profile.Partial:
	default:
		return NotEvaluated
	}
	all := map[control.Outcome]int{}
	for _, c := range q.Controls {
		if len(said[c]) == 0 {
			all[NotEvaluated]++ // it was not run, or said nothing
		}
		for o, n := range said[c] {
			all[o] += n
		}
	}
	switch {
	case all[control.Fail] > 0:
		return control.Fail
	case all[control.Error] > 0:
		return control.Error
	case all[NotEvaluated] > 0 || len(q.Controls) == 0:
		return NotEvaluated
	case all[Waived] > 0:
		return Waived
	case all[control.Pass] == 0:
		return control.NotApplicable
	case q.Coverage == profile.Partial:
		return Partial
	}
	return control.Pass
}

// complies: something was judged, and nothing is bad, the waivers included. What does
// not apply was not judged.
func (r *Report) complies() bool {
	judged := false
	for _, x := range r.Results {
		if x.Control == WaiversControl && bad(x.Outcome) {
			return false
		}
	}
	for _, q := range r.Requirements {
		if bad(q.Outcome) {
			return false
		}
		judged = judged || q.Outcome != Outside && q.Outcome != control.NotApplicable
	}
	return judged
}

// Count is how many requirements, and how many results, have an outcome.
func (r *Report) Count(o control.Outcome) (requirements, results int) {
	for _, q := range r.Requirements {
		if q.Outcome == o {
			requirements++
		}
	}
	for _, x := range r.Results {
		if x.Outcome == o {
			results++
		}
	}
	return requirements, results
}

// clean is a result within the bounds, with no form of a key in it. An outcome that
// is not known is an error.
func clean(x Result) Result {
	switch x.Outcome {
	case control.Pass, control.Fail, control.Error, control.NotApplicable:
	default:
		x.Outcome = control.Error
	}
	if _, known := grave[x.Severity]; !known {
		x.Severity = control.Critical
	}
	x.Control, x.Title, x.Remedy = text(x.Control), text(x.Title), text(x.Remedy)
	x.Target = Target{text(x.Target.Kind), text(x.Target.Name), text(x.Target.ID)}
	x.Seconds = max(0, x.Seconds)
	x.Evidence = cleanLines(x.Evidence)
	return x
}

// cleanLines are lines of evidence within the bounds, without forms of keys.
func cleanLines(lines []string) []string {
	out := []string{}
	for i, e := range lines {
		if i == maxEvidence-1 && len(lines) > maxEvidence {
			out = append(out, fmt.Sprintf("and %d more", len(lines)-i))
			break
		}
		if e = oneline.Text(secretforms.Redact(e), maxLine); e != "" {
			out = append(out, e)
		}
	}
	return out
}

func text(s string) string { return oneline.Text(secretforms.Redact(s), maxText) }
