package spec

import (
	"fmt"
	"slices"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/redoubt-cluster/redoubt/internal/ident"
)

// Constraint is one condition on a node. Attribute is one of the constants
// below; for a label, Label is its key.
type Constraint struct {
	Attribute Attribute
	Label     string
	// Not: the node must not have the value.
	Not   bool
	Value string
}

// Attribute is what a constraint looks at. All but id, role, availability and
// labels are the node's own report, and trusted as far as that goes.
type Attribute string

// The attributes of a node.
const (
	NodeID       Attribute = "node.id"
	NodeHostname Attribute = "node.hostname"
	NodeRole     Attribute = "node.role"
	NodeOS       Attribute = "node.platform.os"
	NodeArch     Attribute = "node.platform.arch"
	NodeLabel    Attribute = "node.labels."
	// NodeAvailability is active, pause or drain, and for entry nodes alone: tasks
	// go to active ones anyway.
	NodeAvailability Attribute = "node.availability"
)

// String is the constraint in its one spelling.
func (c Constraint) String() string {
	op := "=="
	if c.Not {
		op = "!="
	}
	return string(c.Attribute) + c.Label + op + c.Value
}

// taskKeys are what constraints of tasks look at besides labels, entryKeys those of
// entry nodes. What a node says of itself is not among the latter: an entry node
// sees what clients of the service send.
var (
	taskKeys  = []Attribute{NodeID, NodeHostname, NodeRole, NodeOS, NodeArch}
	entryKeys = []Attribute{NodeID, NodeRole, NodeAvailability}
)

// ParseConstraint reads "node.role==worker", "node.labels.disk != hdd". Spaces
// around key, operator and value do not count.
func ParseConstraint(text string) (Constraint, error) { return parse(text, taskKeys) }

// ParseEntryConstraint reads a constraint on the nodes that answer on published
// ports: "node.labels.edge==true", "node.availability!=drain".
func ParseEntryConstraint(text string) (Constraint, error) { return parse(text, entryKeys) }

func parse(text string, keys []Attribute) (Constraint, error) {
	var c Constraint
	if len(text) > MaxConstraint || !utf8.ValidString(text) {
		return c, fmt.Errorf("a constraint is too long or not UTF-8: use at most %d characters", MaxConstraint)
	}
	i := strings.IndexAny(text, "!=")
	if i < 0 || i+2 > len(text) || text[i+1] != '=' {
		return c, fmt.Errorf("constraint %q: write KEY==VALUE or KEY!=VALUE", clip(text))
	}
	key := strings.TrimSpace(text[:i])
	c.Not, c.Value = text[i] == '!', strings.TrimSpace(text[i+2:])

	switch a := Attribute(key); {
	case slices.Contains(keys, a):
		c.Attribute = a
	default:
		label, ok := strings.CutPrefix(key, string(NodeLabel))
		if !ok {
			return c, fmt.Errorf("constraint %q: the key is unknown: use %s or node.labels.KEY", clip(text), listed(keys))
		}
		if !ident.ValidLabel(label) {
			return c, fmt.Errorf("constraint %q: %q cannot be the key of a label", clip(text), clip(label))
		}
		c.Attribute, c.Label = NodeLabel, label
	}
	return c, checkConstraintValue(text, c)
}

func listed(keys []Attribute) string {
	out := make([]string, len(keys))
	for i, k := range keys {
		out[i] = string(k)
	}
	return strings.Join(out, ", ")
}

func checkConstraintValue(text string, c Constraint) error {
	switch {
	case c.Value == "":
		return fmt.Errorf("constraint %q has no value: write KEY==VALUE", clip(text))
	case strings.HasPrefix(c.Value, "="):
		return fmt.Errorf("constraint %q: write the operator as == or !=", clip(text))
	case strings.ContainsFunc(c.Value, func(r rune) bool { return !unicode.IsPrint(r) }):
		return fmt.Errorf("constraint %q: the value has a control character: remove it", clip(text))
	case c.Attribute == NodeRole && c.Value != "worker" && c.Value != "manager":
		return fmt.Errorf("constraint %q: a role is worker or manager", clip(text))
	case c.Attribute == NodeAvailability && c.Value != "active" && c.Value != "pause" && c.Value != "drain":
		return fmt.Errorf("constraint %q: an availability is active, pause or drain", clip(text))
	case c.Attribute == NodeID && !ident.Valid(c.Value):
		return fmt.Errorf("constraint %q: give the whole id of the node, %d characters", clip(text), ident.Len)
	}
	return nil
}
