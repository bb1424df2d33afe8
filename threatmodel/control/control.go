package control

import (
	"context"
	"fmt"
	"regexp"
	"slices"
	"time"

	"github.com/redoubt-cluster/redoubt/internal/oneline"
)

// Severity says how bad it is where a control fails.
type Severity string

// Severities.
const (
	Low      Severity = "low"
	Medium   Severity = "medium"
	High     Severity = "high"
	Critical Severity = "critical"
)

// Scope says what a control judges.
type Scope string

// Scopes. A node is judged on its own machine; a cluster, and what its services ask
// for, by what its leader knows.
const (
	OfNode    Scope = "node"            // every node
	OfManager Scope = "manager"         // a node that holds the cluster's keys
	OfLocked  Scope = "deployment-lock" // a node that has it
	OfCluster Scope = "cluster"
	OfService Scope = "service" // every service
)

// By is a daemon that knows what nobody else sees on its machine.
type By string

// Daemons that judge.
const (
	ByRund    By = "redoubt-rund" // its containers
	ByControl By = "redoubtd"     // what it trusts, and what netd tells it
)

// Outcome is what came of a check.
type Outcome string

// Outcomes. Only Pass is one: what was not judged has not passed.
const (
	Pass          Outcome = "pass"
	Fail          Outcome = "fail"
	Error         Outcome = "error"
	NotApplicable Outcome = "not-applicable"
)

// Control is one live check.
type Control struct {
	ID       string
	Title    string // what holds where it passes
	Severity Severity
	Scope    Scope
	Reads    string // the real state that it looks at
	Remedy   string // what to do where it fails
	// By is the daemon that alone judges it, when the leader asks; empty: whoever reads
	// the machine.
	By By
	// Check adds to found what speaks against the title. An error means that it
	// could not be judged. It ends soon after ctx does. Judge is the same for those
	// whose scope is the cluster or services: a control has one of the two.
	Check func(ctx context.Context, n *Node, found *Found) error
	Judge func(ctx context.Context, c *Cluster, found *Found) error
}

// notApplicable is what a control gives that is of another kind of node, or of what
// is not there; it says so.
type notApplicable string

func (e notApplicable) Error() string { return string(e) }

// Result is what one control said.
type Result struct {
	Control  Control
	Outcome  Outcome
	Evidence []string // one line each, without control characters
	Took     time.Duration
}

// Found gathers what speaks against a control, and what was looked at.
type Found struct {
	looked  int
	against []string
	more    int
}

// Looked counts a thing that was judged. A check that looked at nothing is an error.
func (f *Found) Looked() { f.looked++ }

// Against adds a line, once.
func (f *Found) Against(format string, args ...any) {
	text := oneline.Text(fmt.Sprintf(format, args...), maxLine)
	switch {
	case slices.Contains(f.against, text):
	case len(f.against) == maxEvidence:
		f.more++
	default:
		f.against = append(f.against, text)
	}
}

// leftOff are lines that count others: those of Found, of a report, and of an answer
// that is too large.
var leftOff = regexp.MustCompile(`^and ([0-9]+ )?more($|,)`)

// LeftOff reports whether a line of evidence stands for others, which nobody sees.
func LeftOff(line string) bool { return leftOff.MatchString(line) }

// OK reports whether all results are a pass or of what is not there.
func OK(results []Result) bool {
	for _, r := range results {
		if r.Outcome != Pass && r.Outcome != NotApplicable {
			return false
		}
	}
	return true
}
