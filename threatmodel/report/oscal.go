package report

import (
	"io"
	"slices"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/redoubt-cluster/redoubt/threatmodel/control"
)

// The parts of OSCAL 1.2.2 assessment-results that are written.
type (
	oscalProp struct {
		Name  string `json:"name"`
		NS    string `json:"ns"`
		Value string `json:"value"`
	}
	oscalObservation struct {
		UUID        string          `json:"uuid"`
		Title       string          `json:"title"`
		Description string          `json:"description"`
		Props       []oscalProp     `json:"props"`
		Methods     []string        `json:"methods"`
		Types       []string        `json:"types"`
		Subjects    []oscalSubject  `json:"subjects"`
		Evidence    []oscalEvidence `json:"relevant-evidence,omitempty"`
		Collected   time.Time       `json:"collected"`
		Remarks     string          `json:"remarks,omitempty"`
	}
	oscalSubject struct {
		UUID string `json:"subject-uuid"`
		Type string `json:"type"`
	}
	oscalEvidence struct {
		Description string `json:"description"`
	}
	oscalItem struct {
		UUID        string      `json:"uuid"`
		Description string      `json:"description"`
		Props       []oscalProp `json:"props"`
	}
	oscalFinding struct {
		UUID        string         `json:"uuid"`
		Title       string         `json:"title"`
		Description string         `json:"description"`
		Props       []oscalProp    `json:"props"`
		Target      oscalTarget    `json:"target"`
		Related     []oscalRelated `json:"related-observations,omitempty"`
	}
	oscalTarget struct {
		Type   string      `json:"type"`
		ID     string      `json:"target-id"`
		Status oscalStatus `json:"status"`
	}
	oscalStatus struct {
		State   string `json:"state"`
		Reason  string `json:"reason"`
		Remarks string `json:"remarks,omitempty"`
	}
	oscalRelated struct {
		UUID string `json:"observation-uuid"`
	}
	oscalControl struct {
		ID string `json:"control-id"`
	}
)

// oscalNS marks properties as ours.
const oscalNS = "https://github.com/redoubt-cluster/redoubt"

func prop(name, value string) oscalProp { return oscalProp{name, oscalNS, value} }

// oscal writes OSCAL 1.2.2 assessment-results: an observation for each result, and
// a finding for each requirement that is the cluster's. A finding is satisfied only
// where its requirement is covered in full and passes.
func (r *Report) oscal(w io.Writer) error {
	plan := r.uuid("plan")
	s := newStream(w)
	s.object("")
	s.object("assessment-results")
	s.value("uuid", r.ID)
	s.object("metadata")
	s.value("title", markdown(r.Profile.Title))
	s.value("last-modified", r.Ended.Truncate(time.Second))
	s.value("version", "1")
	s.value("oscal-version", "1.2.2")
	s.end()
	s.value("import-ap", map[string]string{"href": "#" + plan})
	s.list("results")
	s.object("")
	s.value("uuid", r.uuid("result"))
	s.value("title", markdown(r.Profile.Title))
	s.value("description", markdown("What "+r.Tool+" found by the profile "+r.Profile.ID+"."))
	s.value("start", r.Begun.Truncate(time.Second))
	s.value("end", r.Ended.Truncate(time.Second))
	props := []oscalProp{prop("profile", r.Profile.ID), prop("tool", r.Tool), prop("compliant", map[bool]string{true: "yes", false: "no"}[r.Compliant])}
	if r.Cluster != "" {
		props = append(props, prop("cluster", r.Cluster))
	}
	s.value("props", props)
	r.oscalItems(s)
	s.object("reviewed-controls")
	s.list("control-selections")
	s.object("")
	values(s, "include-controls", func(yield func(oscalControl) bool) {
		for _, q := range r.Requirements {
			if !yield(oscalControl{token(q.ID)}) {
				return
			}
		}
	})
	s.end()
	s.end()
	s.end()
	if len(r.Results) > 0 { // OSCAL has no empty lists
		values(s, "observations", func(yield func(oscalObservation) bool) {
			for _, x := range r.Results {
				if !yield(r.observation(x)) {
					return
				}
			}
		})
	}
	if slices.ContainsFunc(r.Requirements, assessed) {
		values(s, "findings", r.findings)
	}
	s.end()
	s.end()
	s.object("back-matter")
	s.value("resources", []map[string]string{{"uuid": plan, "title": markdown(r.Profile.Title),
		"description": markdown("There is no plan of this assessment in OSCAL: it is what the profile " + r.Profile.ID + " says. " + r.Profile.Source)}})
	return s.close()
}

// oscalItems writes what was judged.
func (r *Report) oscalItems(s *stream) {
	if len(r.Results) == 0 {
		return
	}
	s.object("local-definitions")
	values(s, "inventory-items", func(yield func(oscalItem) bool) {
		seen := map[Target]bool{}
		for _, x := range r.Results {
			if seen[x.Target] {
				continue
			}
			seen[x.Target] = true
			if !yield(oscalItem{r.targetUUID(x.Target), markdown(x.Target.String()), []oscalProp{prop("kind", value(x.Target.Kind)), prop("name", value(x.Target.Name))}}) {
				return
			}
		}
	})
	s.end()
}

func (r *Report) targetUUID(t Target) string { return r.uuid("target", t.Kind, t.Name, t.ID) }

func (r *Report) resultUUID(x Result) string { return r.uuid("observation", x.key()) }

func (r *Report) observation(x Result) oscalObservation {
	o := oscalObservation{UUID: r.resultUUID(x), Title: markdown(value(x.Title)), Description: markdown(x.said()), Methods: []string{"TEST"}, Types: []string{"control-objective"},
		Props:     []oscalProp{prop("control", value(x.Control)), prop("outcome", string(x.Outcome)), prop("severity", string(x.Severity))},
		Subjects:  []oscalSubject{{r.targetUUID(x.Target), "inventory-item"}},
		Collected: r.Ended.Truncate(time.Second)}
	for _, e := range x.Evidence {
		o.Evidence = append(o.Evidence, oscalEvidence{markdown(e)})
	}
	if x.Outcome == Waived {
		o.Remarks = markdown(r.WaiverOf(x).Until())
	}
	if bad(x.Outcome) && x.Remedy != "" {
		o.Remarks = markdown("Remedy: " + x.Remedy)
	}
	return o
}

// assessed: OSCAL knows findings that are satisfied and such that are not; what is
// not the cluster's is none.
func assessed(q Requirement) bool {
	return q.Outcome != Outside && q.Outcome != control.NotApplicable
}

func (r *Report) findings(yield func(oscalFinding) bool) {
	of := map[string][]oscalRelated{}
	for _, x := range r.Results {
		of[x.Control] = append(of[x.Control], oscalRelated{r.resultUUID(x)})
	}
	for _, q := range r.Requirements {
		if !assessed(q) {
			continue
		}
		status := oscalStatus{State: "not-satisfied", Reason: "other", Remarks: markdown(q.Note)}
		switch q.Outcome {
		case control.Pass:
			status.State, status.Reason = "satisfied", "pass"
		case control.Fail:
			status.Reason = "fail"
		case Waived:
			status.Remarks = markdown(strings.TrimSpace("Waived. " + q.Note))
		}
		f := oscalFinding{UUID: r.uuid("finding", q.ID), Title: markdown(q.ID + " " + q.Title), Description: markdown("Outcome: " + string(q.Outcome) + ", coverage: " + string(q.Coverage) + "."),
			Props:  []oscalProp{prop("requirement", q.ID), prop("outcome", string(q.Outcome)), prop("coverage", string(q.Coverage))},
			Target: oscalTarget{"objective-id", token(q.ID), status}}
		for _, c := range q.Controls {
			f.Related = append(f.Related, of[c]...)
		}
		if !yield(f) {
			return
		}
	}
}

// token is an id as OSCAL wants it: it begins with a letter or an underscore.
func token(id string) string {
	if first, _ := utf8.DecodeRuneInString(id); unicode.IsLetter(first) {
		return id
	}
	return "_" + id
}

// value is a text that is not empty.
func value(s string) string {
	if s == "" {
		return "-"
	}
	return s
}

// markdown is a text in which nothing is markup: OSCAL's texts are Markdown.
func markdown(s string) string { return markdownEscapes.Replace(s) }

var markdownEscapes = func() *strings.Replacer {
	pairs := []string{"<", "&lt;", ">", "&gt;", "&", "&amp;"}
	for _, c := range "\\`*_{}[]()#+!|~$^" {
		pairs = append(pairs, string(c), `\`+string(c))
	}
	return strings.NewReplacer(pairs...)
}()
