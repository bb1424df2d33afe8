package report

import (
	"crypto/sha256"
	"encoding/hex"
	"io"
	"slices"
	"strings"
	"time"

	"github.com/redoubt-cluster/redoubt/threatmodel/control"
)

// The parts of SARIF 2.1.0 that are written.
type (
	sarifMessage struct {
		Text string `json:"text"`
	}
	sarifRule struct {
		ID         string       `json:"id"`
		Short      sarifMessage `json:"shortDescription"`
		Help       sarifMessage `json:"help"`
		Default    sarifLevel   `json:"defaultConfiguration"`
		Properties struct {
			Tags     []string `json:"tags"`
			Severity string   `json:"security-severity"` // 0 to 10, as forges show it
		} `json:"properties"`
	}
	sarifLevel struct {
		Level string `json:"level"`
	}
	sarifNotification struct {
		Message sarifMessage `json:"message"`
		Level   string       `json:"level"`
		Rule    struct {
			ID string `json:"id"`
		} `json:"associatedRule"`
	}
	sarifResult struct {
		RuleID       string            `json:"ruleId"`
		RuleIndex    int               `json:"ruleIndex"`
		Kind         string            `json:"kind"`
		Level        string            `json:"level"`
		Message      sarifMessage      `json:"message"`
		Locations    []sarifLocation   `json:"locations"`
		Fingerprints map[string]string `json:"partialFingerprints"`
		Suppressions []sarifWaiver     `json:"suppressions,omitempty"`
	}
	sarifWaiver struct {
		Kind          string `json:"kind"`
		Status        string `json:"status"`
		Justification string `json:"justification"`
	}
	sarifLocation struct {
		Logical []sarifLogical `json:"logicalLocations"`
	}
	sarifLogical struct {
		Name string `json:"name"`
		Full string `json:"fullyQualifiedName"`
		Kind string `json:"kind"`
	}
	sarifRequirement struct {
		ID       string `json:"id"`
		Title    string `json:"title"`
		Coverage string `json:"coverage"`
		Outcome  string `json:"outcome"`
	}
)

// sarif writes SARIF 2.1.0: a rule for each control, a result for each of its
// targets. It has no word for requirements: they are in the run's properties. What
// could not be evaluated is "open", and the run says that it did not succeed. What is
// waived fails, and is suppressed.
func (r *Report) sarif(w io.Writer) error {
	rules, at := r.sarifRules()
	s := newStream(w)
	s.object("")
	s.value("$schema", "https://docs.oasis-open.org/sarif/sarif/v2.1.0/errata01/os/schemas/sarif-schema-2.1.0.json")
	s.value("version", "2.1.0")
	s.list("runs")
	s.object("")

	s.object("tool")
	s.object("driver")
	s.value("name", "redoubt")
	s.value("informationUri", oscalNS)
	s.value("version", strings.TrimPrefix(r.Tool, "redoubt "))
	values(s, "rules", slices.Values(rules))
	s.end()
	s.end()
	s.value("automationDetails", map[string]string{"id": r.Profile.ID + "/" + r.ID, "guid": r.ID})

	_, unknown := r.Count(control.Error)
	s.list("invocations")
	s.object("")
	s.value("executionSuccessful", unknown == 0)
	s.value("startTimeUtc", r.Begun.Format(time.RFC3339))
	s.value("endTimeUtc", r.Ended.Format(time.RFC3339))
	values(s, "toolExecutionNotifications", func(yield func(sarifNotification) bool) {
		for _, x := range r.Results {
			if x.Outcome != control.Error {
				continue
			}
			n := sarifNotification{Message: sarifMessage{sarifText(x.said())}, Level: "error"}
			n.Rule.ID = x.Control
			if !yield(n) {
				return
			}
		}
	})
	s.end()
	s.end()

	values(s, "results", func(yield func(sarifResult) bool) {
		for _, x := range r.Results {
			one := x.sarif(at[x.Control])
			if x.Outcome == Waived {
				one.Suppressions = []sarifWaiver{{"external", "accepted", r.WaiverOf(x).Until()}}
			}
			if !yield(one) {
				return
			}
		}
	})
	s.object("properties")
	s.value("profile", r.Profile.ID)
	s.value("cluster", r.Cluster)
	s.value("compliant", r.Compliant)
	values(s, "requirements", func(yield func(sarifRequirement) bool) {
		for _, q := range r.Requirements {
			if !yield(sarifRequirement{q.ID, q.Title, string(q.Coverage), string(q.Outcome)}) {
				return
			}
		}
	})
	return s.close()
}

// sarifRules are the controls that gave results, and where each is in the list.
func (r *Report) sarifRules() (rules []sarifRule, at map[string]int) {
	at = map[string]int{}
	for _, x := range r.Results {
		if _, there := at[x.Control]; there {
			continue
		}
		at[x.Control] = len(rules)
		rule := sarifRule{ID: x.Control, Short: sarifMessage{x.Title}, Help: sarifMessage{x.Remedy}, Default: sarifLevel{sarifLevels[x.Severity]}}
		rule.Properties.Tags = []string{"security"}
		rule.Properties.Severity = map[control.Severity]string{control.Critical: "9.5", control.High: "8.0", control.Medium: "5.5", control.Low: "3.0"}[x.Severity]
		rules = append(rules, rule)
	}
	return rules, at
}

var (
	sarifLevels = map[control.Severity]string{control.Critical: "error", control.High: "error", control.Medium: "warning", control.Low: "note"}
	sarifKinds  = map[control.Outcome]string{control.Pass: "pass", control.Fail: "fail", control.Error: "open", control.NotApplicable: "notApplicable", Waived: "fail"}
)

func (x Result) sarif(rule int) sarifResult {
	key := sha256.Sum256([]byte(x.key()))
	level := "none" // which SARIF wants wherever nothing failed
	if x.Outcome == control.Fail || x.Outcome == Waived {
		level = sarifLevels[x.Severity]
	}
	full := x.Target.Kind + "/" + x.Target.Name
	if x.Target.ID != "" {
		full = x.Target.Kind + "/" + x.Target.ID
	}
	return sarifResult{RuleID: x.Control, RuleIndex: rule, Kind: sarifKinds[x.Outcome], Level: level, Message: sarifMessage{sarifText(x.said())},
		Locations:    []sarifLocation{{[]sarifLogical{{x.Target.Name, full, x.Target.Kind}}}},
		Fingerprints: map[string]string{"controlTarget/v1": hex.EncodeToString(key[:16])}}
}

// said is a result as one line.
func (x Result) said() string {
	about := x.Target.String() + ": " + string(x.Outcome)
	if len(x.Evidence) == 0 {
		return about
	}
	return about + ": " + strings.Join(x.Evidence, "; ")
}

// sarifText is a text in which nothing is a link or a placeholder.
func sarifText(s string) string { return sarifEscapes.Replace(s) }

var sarifEscapes = strings.NewReplacer(`\`, `\\`, "[", `\[`, "]", `\]`, "{", "{{", "}", "}}")
