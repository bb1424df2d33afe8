package report

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/redoubt-cluster/redoubt/threatmodel/control"
)

// Kinds of what changed between two reports.
const (
	ChangeNew      = "new"      // it is bad, and was not, or is bad in another way
	ChangeResolved = "resolved" // it was bad, and is not
	ChangeWaived   = "waived"   // it fails as it did, and somebody answers for it
	ChangeGone     = "gone"     // it was judged, and is not any more
	ChangeLess     = "less"     // it was judged, and now does not apply, or in part alone
)

// Change is one thing that is otherwise in the newer of two reports.
type Change struct {
	Change   string   `json:"change"`
	Kind     string   `json:"kind"` // "control" or "requirement"
	ID       string   `json:"id"`
	Target   string   `json:"target,omitempty"` // of a control's result
	From     string   `json:"from"`             // outcomes; "" where it was not there
	To       string   `json:"to"`
	Evidence []string `json:"evidence"` // what was not there before
}

// Since is how a report stands beside an older one.
type Since struct {
	Report  string // its id
	Ended   time.Time
	Met, Of int // of its requirements that were to be met
	Changes []Change
}

// CompareWith notes what changed since an older report.
func (r *Report) CompareWith(older *Report) error {
	changes, err := Compare(older, r)
	if err != nil {
		return err
	}
	met, of := older.met()
	r.Since = &Since{older.ID, older.Ended, met, of, changes}
	return nil
}

// Compare says what changed from an older report to a newer one of the same
// profile, what is new first. A control that fails as before, or is waived as before,
// with evidence that it did not have is new, too.
func Compare(older, newer *Report) ([]Change, error) {
	switch {
	case older.Profile.ID != newer.Profile.ID:
		return nil, fmt.Errorf("the reports are of different profiles, %s and %s", older.Profile.ID, newer.Profile.ID)
	case older.Profile.SHA256 != newer.Profile.SHA256:
		return nil, fmt.Errorf("the profile %s was another one in the first report: run both by the same file and version", older.Profile.ID)
	case older.Cluster != "" && newer.Cluster != "" && older.Cluster != newer.Cluster:
		return nil, fmt.Errorf("the reports are of different clusters, %s and %s", older.Cluster, newer.Cluster)
	case newer.Begun.Before(older.Begun):
		return nil, fmt.Errorf("the second report is older than the first: name the older one first")
	}
	changes := []Change{}
	add := func(kind, id, target string, was, is control.Outcome, evidence []string) {
		c := Change{Kind: kind, ID: id, Target: target, From: string(was), To: string(is), Evidence: evidence}
		switch {
		case bad(is) && (was != is || len(evidence) > 0), is == Waived && (was == Waived || bad(was)) && len(evidence) > 0:
			c.Change = ChangeNew
		case less(was, is):
			c.Change = ChangeLess
		case is == Waived && was != Waived:
			c.Change = ChangeWaived
		case is == "":
			c.Change = ChangeGone
		case bad(was) && !bad(is):
			c.Change = ChangeResolved
		default:
			return
		}
		changes = append(changes, c)
	}
	before := map[string]Result{}
	for _, x := range older.Results {
		before[x.key()] = x
	}
	for _, x := range newer.Results {
		was := before[x.key()]
		delete(before, x.key())
		evidence := []string{}
		for _, e := range x.Evidence {
			if (bad(x.Outcome) || x.Outcome == Waived) && !slices.Contains(was.Evidence, e) {
				evidence = append(evidence, e)
			}
		}
		add("control", x.Control, x.Target.String(), was.Outcome, x.Outcome, evidence)
	}
	for _, x := range before {
		add("control", x.Control, x.Target.String(), x.Outcome, "", []string{})
	}
	required := map[string]control.Outcome{}
	for _, q := range older.Requirements {
		required[q.ID] = q.Outcome
	}
	for _, q := range newer.Requirements {
		was := required[q.ID]
		delete(required, q.ID)
		add("requirement", q.ID, "", was, q.Outcome, []string{})
	}
	for id, was := range required {
		add("requirement", id, "", was, "", []string{})
	}
	order := []string{ChangeNew, ChangeLess, ChangeWaived, ChangeGone, ChangeResolved}
	slices.SortFunc(changes, func(a, b Change) int {
		return cmp.Or(slices.Index(order, a.Change)-slices.Index(order, b.Change), strings.Compare(a.Kind, b.Kind), strings.Compare(a.ID, b.ID), strings.Compare(a.Target, b.Target))
	})
	return changes, nil
}

// less reports whether something was judged that is not any more, or not all of it.
func less(was, is control.Outcome) bool {
	switch is {
	case control.NotApplicable, Outside:
		return was != "" && was != is && was != Outside
	case Partial:
		return was == control.Pass
	}
	return false
}

// Hides reports whether it takes something out of sight that was judged, or is bad and
// was not.
func (c Change) Hides() bool {
	return c.Change == ChangeNew || c.Change == ChangeLess || c.Change == ChangeGone
}

// key says of what a result is.
func (x Result) key() string {
	who := x.Target.ID
	if who == "" {
		who = x.Target.Name
	}
	return x.Control + "\x00" + x.Target.Kind + "\x00" + who
}
