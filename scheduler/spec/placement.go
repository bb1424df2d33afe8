package spec

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/redoubt-cluster/redoubt/internal/ident"
	"github.com/redoubt-cluster/redoubt/scheduler/generic"
	"github.com/redoubt-cluster/redoubt/scheduler/schedulerpb"
	"github.com/redoubt-cluster/redoubt/scheduler/taskpb"
)

// Short names of the orders of nodes.
const (
	Spread  = taskpb.Strategy_STRATEGY_SPREAD
	BinPack = taskpb.Strategy_STRATEGY_BIN_PACK
)

// Preference is one level over whose values a service's tasks are spread.
type Preference struct {
	Attribute Attribute
	// Label is the key of one.
	Label string
}

// String is the preference in its one spelling.
func (p Preference) String() string { return "spread=" + string(p.Attribute) + p.Label }

// Over is what it looks at: "node.labels.zone".
func (p Preference) Over() string { return string(p.Attribute) + p.Label }

// preferenceKeys are what tasks are spread over besides labels: what several nodes have
// in common.
var preferenceKeys = []Attribute{NodeRole, NodeOS, NodeArch}

// ParsePreference reads "spread=node.labels.zone".
func ParsePreference(text string) (Preference, error) {
	var p Preference
	if len(text) > MaxConstraint {
		return p, fmt.Errorf("a placement preference is too long: use at most %d characters", MaxConstraint)
	}
	how, over, ok := strings.Cut(text, "=")
	if !ok || strings.TrimSpace(how) != "spread" {
		return p, fmt.Errorf("placement preference %q: write spread=node.labels.KEY", clip(text))
	}
	over = strings.TrimSpace(over)
	if slices.Contains(preferenceKeys, Attribute(over)) {
		return Preference{Attribute: Attribute(over)}, nil
	}
	if strings.HasPrefix(over, "engine.labels.") {
		return p, fmt.Errorf("placement preference %q: nodes have no labels that they give themselves: use node.labels.KEY (redoubt node update --label-add)", clip(text))
	}
	label, ok := strings.CutPrefix(over, string(NodeLabel))
	if !ok {
		return p, fmt.Errorf("placement preference %q: use node.labels.KEY, or %s", clip(text), listed(preferenceKeys))
	}
	if !ident.ValidLabel(label) {
		return p, fmt.Errorf("placement preference %q: %q cannot be the key of a label", clip(text), clip(label))
	}
	return Preference{Attribute: NodeLabel, Label: label}, nil
}

func normalizePlacement(t *taskpb.TaskSpec) {
	for i, text := range t.GetPreferences() {
		if p, err := ParsePreference(text); err == nil {
			t.Preferences[i] = p.String()
		}
	}
	generic.Sort(t.GetReservations().GetGeneric())
}

func validatePlacement(s *schedulerpb.ServiceSpec) error {
	t := s.GetTask()
	prefs := t.GetPreferences()
	if n := len(prefs); n > MaxPreferences {
		return fmt.Errorf("placement preferences: there are %d: at most %d are allowed", n, MaxPreferences)
	}
	for i, text := range prefs {
		if _, err := ParsePreference(text); err != nil {
			return err
		}
		if slices.Contains(prefs[:i], text) {
			return fmt.Errorf("placement preference %s is given twice: keep one", text)
		}
	}
	if p := t.GetPriority(); p > MaxPriority {
		return fmt.Errorf("priority is %d: use 0 to %d", p, MaxPriority)
	}
	if len(t.GetReservations().GetGeneric()) > 0 || len(t.GetLimits().GetGeneric()) > 0 {
		return fmt.Errorf("generic resources cannot be reserved: no node reports any yet")
	}
	switch t.GetStrategy() {
	case taskpb.Strategy_STRATEGY_UNSPECIFIED, Spread:
	case BinPack:
		if !Reserves(t) {
			return fmt.Errorf("strategy bin-pack fills nodes by what is reserved: reserve CPU or memory")
		}
	default:
		return fmt.Errorf("the placement strategy is unknown: use spread or bin-pack")
	}
	if s.GetRebalance() != nil && IsJob(s) {
		return fmt.Errorf("a job's tasks come to their end: there is nothing to rebalance")
	}
	if PerNode(s) {
		switch {
		case len(prefs) > 0:
			return fmt.Errorf("a global service runs on every node: leave placement preferences out")
		case t.GetStrategy() != taskpb.Strategy_STRATEGY_UNSPECIFIED:
			return fmt.Errorf("a global service runs on every node: leave the placement strategy out")
		case s.GetRebalance() != nil:
			return fmt.Errorf("a global service runs on every node: there is nothing to rebalance")
		}
	}
	if d := time.Duration(s.GetRebalance().GetPauseNs()); d < 0 || d > MaxRebalancePause {
		return fmt.Errorf("rebalance pause is %v: use up to %v, or 0s for the default of %v", d, MaxRebalancePause, DefaultRebalancePause)
	}
	return nil
}

// Reserves reports whether a task keeps something of its node for itself.
func Reserves(t *taskpb.TaskSpec) bool {
	r := t.GetReservations()
	return r.GetNanoCpus() > 0 || r.GetMemoryBytes() > 0 || len(r.GetGeneric()) > 0
}
