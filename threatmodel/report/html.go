package report

import (
	"bufio"
	"crypto/sha256"
	_ "embed"
	"encoding/base64"
	"html/template"
	"io"
	"math"
	"time"

	"github.com/redoubt-cluster/redoubt/threatmodel/control"
)

//go:embed report.html.tmpl
var pageText string

//go:embed report.css
var style string

var page = template.Must(template.New("report").Funcs(template.FuncMap{
	"day": func(t time.Time) string { return t.Format("2006-01-02 15:04:05 UTC") },
}).Parse(pageText))

// html writes one file that needs nothing else: no script, no picture, no font, and
// its policy lets a browser load none. All that others chose is escaped by the place
// that it stands in.
func (r *Report) html(w io.Writer) error {
	sum := sha256.Sum256([]byte(style))
	met, of := r.met()
	_, waived := r.Count(Waived)
	b := bufio.NewWriter(w)
	err := page.Execute(b, map[string]any{
		"R": r, "Style": template.CSS(style), "StyleHash": base64.StdEncoding.EncodeToString(sum[:]),
		"Met": met, "Of": of, "Waived": waived, "Families": r.families(), "Severities": r.bySeverity(), "Bad": r.badResults(), "Rest": r.Results[r.badResults():], "Counts": r.counts(),
	})
	if err != nil {
		return err
	}
	return b.Flush()
}

// family is how a chapter of the profile fares.
type family struct {
	Name                         string
	Met, Partly, Failed, Unknown int // requirements
	Waived                       int
	Apart                        int // of those, not the cluster's or not of this kind of node
}

// Of is how many requirements are to be met, Score how many of them are, in whole
// percent that reach 100 only where all are.
func (f family) Of() int { return f.Met + f.Partly + f.Failed + f.Unknown + f.Waived }

func (f family) Score() int {
	if f.Of() == 0 {
		return 0
	}
	return int(math.Floor(100 * float64(f.Met) / float64(f.Of())))
}

func (r *Report) families() []*family {
	var all []*family
	at := map[string]*family{}
	for _, q := range r.Requirements {
		f := at[q.Family]
		if f == nil {
			f = &family{Name: value(q.Family)}
			at[q.Family] = f
			all = append(all, f)
		}
		switch q.Outcome {
		case control.Pass:
			f.Met++
		case Partial:
			f.Partly++
		case control.Fail:
			f.Failed++
		case Waived:
			f.Waived++
		case control.Error, NotEvaluated:
			f.Unknown++
		default:
			f.Apart++
		}
	}
	return all
}

// met is how many requirements are met, of those that are to be.
func (r *Report) met() (met, of int) {
	for _, f := range r.families() {
		met, of = met+f.Met, of+f.Of()
	}
	return met, of
}

// badResults is how many results are bad: they stand first.
func (r *Report) badResults() int {
	n := 0
	for n < len(r.Results) && bad(r.Results[n].Outcome) {
		n++
	}
	return n
}

// severityGroup are the bad results of one severity.
type severityGroup struct {
	Severity control.Severity
	Results  []*Result
}

func (r *Report) bySeverity() []severityGroup {
	groups := []severityGroup{{Severity: control.Critical}, {Severity: control.High}, {Severity: control.Medium}, {Severity: control.Low}}
	for i := range r.Results[:r.badResults()] {
		x := &r.Results[i]
		g := &groups[grave[x.Severity]]
		g.Results = append(g.Results, x)
	}
	return groups
}

// count is how many requirements and results have an outcome.
type count struct {
	Outcome               control.Outcome
	Requirements, Results int
}

func (r *Report) counts() []count {
	var all []count
	for _, o := range []control.Outcome{control.Fail, control.Error, NotEvaluated, Waived, Partial, control.Pass, control.NotApplicable, Outside} {
		if q, x := r.Count(o); q+x > 0 {
			all = append(all, count{o, q, x})
		}
	}
	return all
}
