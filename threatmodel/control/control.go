package control

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/redoubt-cluster/redoubt/internal/oneline"
)

// Severity says how bad it is where a control fails.
type Severity string

// Severities.
const (
	Medium   Severity = "medium"
	High     Severity = "high"
	Critical Severity = "critical"
)

// Scope says what a control judges.
type Scope string

// Scopes.
const (
	OfNode    Scope = "node"    // every node
	OfManager Scope = "manager" // a node that holds the cluster's keys
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
	// Check adds to found what speaks against the title. An error means that it
	// could not be judged. It ends soon after ctx does.
	Check func(ctx context.Context, n *Node, found *Found) error
}

// Result is what one control said of a node.
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

// OK reports whether all results are a pass or of what a node is not.
func OK(results []Result) bool {
	for _, r := range results {
		if r.Outcome != Pass && r.Outcome != NotApplicable {
			return false
		}
	}
	return true
}
