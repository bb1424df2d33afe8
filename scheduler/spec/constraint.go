package spec

import (
	"fmt"
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

// Attribute is what a constraint looks at. All but id, role and labels are the
// node's own report, and trusted as far as that goes.
type Attribute string

// The attributes of a node.
const (
	NodeID       Attribute = "node.id"
	NodeHostname Attribute = "node.hostname"
	NodeRole     Attribute = "node.role"
	NodeOS       Attribute = "node.platform.os"
	NodeArch     Attribute = "node.platform.arch"
	NodeLabel    Attribute = "node.labels."
)

// String is the constraint in its one spelling.
func (c Constraint) String() string {
	op := "=="
	if c.Not {
		op = "!="
	}
	return string(c.Attribute) + c.Label + op + c.Value
}

// ParseConstraint reads "node.role==worker", "node.labels.disk != hdd". Spaces
// around key, operator and value do not count.
func ParseConstraint(text string) (Constraint, error) {
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

	switch a := Attribute(key); a {
	case NodeID, NodeHostname, NodeRole, NodeOS, NodeArch:
		c.Attribute = a
	default:
		label, ok := strings.CutPrefix(key, string(NodeLabel))
		if !ok {
			return c, fmt.Errorf("constraint %q: the key is unknown: use node.id, node.hostname, node.role, node.platform.os, node.platform.arch or node.labels.KEY", clip(text))
		}
		if !ident.ValidLabel(label) {
			return c, fmt.Errorf("constraint %q: %q cannot be the key of a label", clip(text), clip(label))
		}
		c.Attribute, c.Label = NodeLabel, label
	}
	return c, checkConstraintValue(text, c)
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
	case c.Attribute == NodeID && !ident.Valid(c.Value):
		return fmt.Errorf("constraint %q: give the whole id of the node, %d characters", clip(text), ident.Len)
	}
	return nil
}
