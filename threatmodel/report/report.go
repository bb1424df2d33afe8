package report

import (
	"crypto/rand"
	"crypto/sha256"
	"fmt"
	"time"

	"github.com/redoubt-cluster/redoubt/threatmodel/control"
	"github.com/redoubt-cluster/redoubt/threatmodel/profile"
)

// What comes of a requirement beside what comes of a control.
const (
	Partial      control.Outcome = "partial"       // what is judged of it holds; the rest is not judged
	NotEvaluated control.Outcome = "not-evaluated" // no control judges it, or one that does was not run
	Outside      control.Outcome = "outside"       // it is not the cluster's to do
)

// formVersion is of the JSON form.
const formVersion = 1

// Report is what came of one run. Its JSON form is that of docs/formats.md.
type Report struct {
	Version      int           `json:"version"`
	ID           string        `json:"id"` // a random UUID
	Tool         string        `json:"tool"`
	Cluster      string        `json:"cluster,omitempty"` // its id, where a node said it
	Begun        time.Time     `json:"begun"`
	Ended        time.Time     `json:"ended"`
	Profile      Profile       `json:"profile"`
	Compliant    bool          `json:"compliant"` // nothing fails, and nothing that is to be judged was not
	Requirements []Requirement `json:"requirements"`
	Results      []Result      `json:"results"`
	// Waivers are those of the profile's controls.
	Waivers []Waiver `json:"waivers,omitempty"`

	// Since is what changed since an older report, for people: the HTML form shows it.
	Since *Since `json:"-"`
}

// Profile is by what was judged.
type Profile struct {
	ID     string `json:"id"`
	Title  string `json:"title"`
	Source string `json:"source,omitempty"`
	// SHA256 is of its files' contents, in hex.
	SHA256 string `json:"sha256,omitempty"`
}

// Requirement is what the profile asks for, and what came of it.
type Requirement struct {
	ID       string           `json:"id"`
	Title    string           `json:"title"`
	Family   string           `json:"family,omitempty"`
	Coverage profile.Coverage `json:"coverage"`
	Controls []string         `json:"controls"`
	Note     string           `json:"note,omitempty"`
	Outcome  control.Outcome  `json:"outcome"`
}

// Result is what one control said of one target.
type Result struct {
	Control  string           `json:"control"`
	Title    string           `json:"title"`
	Severity control.Severity `json:"severity"`
	Target   Target           `json:"target"`
	Outcome  control.Outcome  `json:"outcome"`
	Evidence []string         `json:"evidence"`
	Remedy   string           `json:"remedy"`
	Seconds  float64          `json:"seconds"`
	Waiver   string           `json:"waiver,omitempty"` // the id of the one that it is waived by
}

// Target is what was judged.
type Target struct {
	Kind string `json:"kind"` // as "node"
	Name string `json:"name"`
	ID   string `json:"id,omitempty"` // where it has one: two may have one name
}

func (t Target) String() string {
	if t.ID == "" {
		return t.Kind + "/" + t.Name
	}
	return t.Kind + "/" + t.Name + " (" + t.ID + ")"
}

// bad reports whether an outcome is none that a report may comply with.
func bad(o control.Outcome) bool {
	return o == control.Fail || o == control.Error || o == NotEvaluated
}

// rank orders outcomes and severities: what needs somebody first comes first.
var (
	rank  = map[control.Outcome]int{control.Fail: 0, control.Error: 1, NotEvaluated: 2, Waived: 3, Partial: 4, control.Pass: 5, control.NotApplicable: 6, Outside: 7}
	grave = map[control.Severity]int{control.Critical: 0, control.High: 1, control.Medium: 2, control.Low: 3}
)

// newUUID is a random one (version 4 of RFC 9562).
func newUUID() string {
	var b [16]byte
	rand.Read(b[:]) // never fails: crypto/rand aborts the process instead
	return formUUID(b)
}

// uuid is the one of a thing in this report: the same each time that the report is
// written. It is as random as the report's own.
func (r *Report) uuid(parts ...string) string {
	h := sha256.New()
	for _, p := range append([]string{r.ID}, parts...) {
		fmt.Fprintf(h, "%d:%s", len(p), p)
	}
	return formUUID([16]byte(h.Sum(nil)[:16]))
}

func formUUID(b [16]byte) string {
	b[6], b[8] = b[6]&0x0f|0x40, b[8]&0x3f|0x80
	return fmt.Sprintf("%x-%x-%x-%x-%x", b[:4], b[4:6], b[6:8], b[8:10], b[10:])
}
