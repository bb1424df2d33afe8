package report

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/redoubt-cluster/redoubt/threatmodel/control"
)

// Waived is a control that failed where somebody answers for it until a day.
const Waived control.Outcome = "waived"

// WaiversControl is what every report holds the waivers of its profile against. It
// is nobody's requirement, and cannot be waived.
const WaiversControl = "waivers-current"

// What becomes of a waiver in a report.
const (
	WaiverUsed    = "used"
	WaiverUnused  = "unused"  // what it is for was judged, and did not fail: a finding
	WaiverExpired = "expired" // a finding, whether or not what it is for fails
	WaiverIdle    = "idle"    // what it is for was not judged in this report
	// What it is for fails in another way, too, which nobody has seen who approved it: a
	// finding, and it waives nothing.
	WaiverOutgrown = "outgrown"
)

// Waiver is one that was asked for and approved.
type Waiver struct {
	ID      string `json:"id"`
	Control string `json:"control"`
	// Scope is a node by its id, or the cluster.
	Scope    Target    `json:"scope"`
	Reason   string    `json:"reason"`
	Asked    string    `json:"asked_by"`
	Approved string    `json:"approved_by"`
	Expires  time.Time `json:"expires"`
	State    string    `json:"state"`
	// Evidence are the lines that were seen when it was asked for.
	Evidence []string `json:"evidence"`
}

// unseen are the lines of a result that the waiver is not for. Those that a line counts
// nobody has seen, and others may stand there by now.
func (w Waiver) unseen(x Result) (lines []string) {
	for _, e := range x.Evidence {
		if !slices.Contains(w.Evidence, e) || control.LeftOff(e) {
			lines = append(lines, e)
		}
	}
	return lines
}

// covers reports whether a waiver is of a result. A node whose id is not known has
// none.
func (w Waiver) covers(x Result) bool {
	return w.Control == x.Control && w.Scope.Kind == x.Target.Kind && (x.Target.Kind == "cluster" || x.Target.ID != "" && w.Scope.ID == x.Target.ID)
}

// Until says for how long, by whom and why, for people.
func (w Waiver) Until() string {
	return fmt.Sprintf("waived until %s by %s: %s", w.Expires.UTC().Format(time.DateOnly), w.Approved, w.Reason)
}

// waive lets the waivers of the profile's controls have their effect on the results,
// and adds the result of the waivers themselves where there are any. What could not
// be evaluated is not waived: nobody knows what that would be an answer for.
func (r *Report) waive(all []Waiver, wanted []string) {
	for _, w := range all {
		if _, found := slices.BinarySearch(wanted, w.Control); !found {
			continue
		}
		w.ID, w.Control, w.Reason, w.Asked, w.Approved = text(w.ID), text(w.Control), text(w.Reason), text(w.Asked), text(w.Approved)
		w.Scope, w.Expires, w.State = Target{text(w.Scope.Kind), text(w.Scope.Name), text(w.Scope.ID)}, w.Expires.UTC(), WaiverIdle
		if !w.Expires.After(r.Begun) {
			w.State = WaiverExpired
		}
		w.Evidence = cleanLines(w.Evidence)
		for i := range r.Results {
			x := &r.Results[i]
			if w.State == WaiverExpired || !w.covers(*x) {
				continue
			}
			switch x.Outcome {
			case control.Fail:
				if len(w.unseen(*x)) > 0 {
					w.State = WaiverOutgrown
					continue
				}
				x.Outcome, x.Waiver, w.State = Waived, w.ID, WaiverUsed
			case control.Pass, control.NotApplicable, Waived: // by another one
				if w.State == WaiverIdle {
					w.State = WaiverUnused
				}
			}
		}
		r.Waivers = append(r.Waivers, w)
	}
	if len(r.Waivers) == 0 {
		return
	}
	slices.SortFunc(r.Waivers, func(a, b Waiver) int {
		return cmp.Or(strings.Compare(a.Control, b.Control), strings.Compare(a.Scope.String(), b.Scope.String()), strings.Compare(a.ID, b.ID))
	})
	r.Results = append(r.Results, clean(r.ofWaivers()))
}

// WaiversUnknown says that there may be waivers, and why nobody could ask for them.
// Then what fails counts, and the report does not comply: whether one has ended is not
// known.
func (r *Report) WaiversUnknown(why string) {
	x := r.ofWaivers()
	x.Outcome, x.Evidence = control.Error, []string{why}
	r.Results = append(r.Results, clean(x))
	r.sort()
	r.Compliant = r.complies()
}

// ofWaivers is what comes of the waivers.
func (r *Report) ofWaivers() Result {
	x := Result{Control: WaiversControl, Title: "Every waiver is in use, has not ended, and is for all that fails", Severity: control.Medium, Target: Target{Kind: "cluster", Name: "cluster", ID: r.Cluster},
		Outcome: control.Pass, Remedy: "redoubt compliance waiver rm ID; then mend what it was for, or have it waived anew"}
	for _, w := range r.Waivers {
		switch w.State {
		case WaiverExpired:
			x.Evidence = append(x.Evidence, fmt.Sprintf("%s: %s of %s ended on %s", w.ID, w.Control, w.Scope, w.Expires.Format(time.DateOnly)))
		case WaiverUnused:
			x.Evidence = append(x.Evidence, fmt.Sprintf("%s: %s of %s does not fail", w.ID, w.Control, w.Scope))
		case WaiverOutgrown:
			x.Evidence = append(x.Evidence, fmt.Sprintf("%s: %s of %s fails in a way that nobody waived", w.ID, w.Control, w.Scope))
		}
	}
	if len(x.Evidence) > 0 {
		x.Outcome = control.Fail
		return x
	}
	x.Evidence = []string{fmt.Sprintf("%d looked at", len(r.Waivers))}
	return x
}

// WaiverOf is the waiver of a result that is waived.
func (r *Report) WaiverOf(x Result) Waiver {
	if i := slices.IndexFunc(r.Waivers, func(w Waiver) bool { return w.ID == x.Waiver }); x.Waiver != "" && i >= 0 {
		return r.Waivers[i]
	}
	return Waiver{}
}

// checkWaivers holds that what is waived has its waiver, and that the waivers' own
// result says what they do.
func (r *Report) checkWaivers() error {
	if len(r.Waivers) > maxWaivers {
		return fmt.Errorf("more than %d waivers", maxWaivers)
	}
	for _, w := range r.Waivers {
		if !slices.Contains([]string{WaiverUsed, WaiverUnused, WaiverExpired, WaiverIdle, WaiverOutgrown}, w.State) || w.ID == "" || (w.State == WaiverExpired) == w.Expires.After(r.Begun) || len(w.Evidence) > maxEvidence || !slices.Equal(w.Evidence, cleanLines(w.Evidence)) {
			return fmt.Errorf("waiver %q is out of bounds", w.ID)
		}
	}
	said, unknown := false, false
	for _, x := range r.Results {
		w := r.WaiverOf(x)
		if waived := x.Outcome == Waived; waived != (x.Waiver != "") || waived && (w.State != WaiverUsed || !w.covers(x) || len(w.unseen(x)) > 0) {
			return fmt.Errorf("control %q is waived by no waiver", x.Control)
		}
		if x.Control == WaiversControl {
			said = true
			if unknown = x.Outcome == control.Error; !unknown && x.Outcome != r.ofWaivers().Outcome {
				return fmt.Errorf("its waivers are not as it says")
			}
		}
	}
	if said != (unknown || len(r.Waivers) > 0) || unknown && len(r.Waivers) > 0 {
		return fmt.Errorf("its waivers are not as it says")
	}
	return nil
}
