package roles

import (
	"embed"
	"fmt"
	"slices"
	"strings"
	"sync"

	"github.com/cedar-policy/cedar-go"
	"github.com/cedar-policy/cedar-go/x/exp/ast"
)

// Names of the built-in roles that rules speak of.
const (
	Operator      = "operator"
	SecurityAdmin = "security-admin"
)

//go:embed builtin/*.cedar
var builtinFiles embed.FS

// Role is a role as it is listed.
type Role struct {
	Name, Description string
	Verbs             []string
	Builtin           bool
	// Text is its policy.
	Text string

	policies []*cedar.Policy
}

// BuiltinNames lists the built-in roles, the least first.
var BuiltinNames = []string{"viewer", "auditor", "deployer", Operator, SecurityAdmin}

var builtins = sync.OnceValues(func() (map[string]*Role, error) {
	out := map[string]*Role{}
	for _, name := range BuiltinNames {
		text, err := builtinFiles.ReadFile("builtin/" + name + ".cedar")
		if err != nil {
			return nil, err
		}
		if _, err := ParsePolicy("role "+name, string(text), func(role string) bool { return role == name }); err != nil {
			return nil, fmt.Errorf("role %s: %w", name, err)
		}
		r, err := newRole(name, string(text))
		if err != nil {
			return nil, err
		}
		r.Builtin, r.Description = true, string(r.policies[0].Annotations()["description"])
		out[name] = r
	}
	return out, giveRest(out[SecurityAdmin], out)
})

// giveRest has security-admin do what no role was given.
func giveRest(admin *Role, all map[string]*Role) error {
	verbs, err := Verbs()
	if err != nil {
		return err
	}
	rest := slices.DeleteFunc(slices.Clone(verbs), func(v string) bool {
		for _, r := range all {
			if slices.Contains(r.Verbs, v) {
				return true
			}
		}
		return false
	})
	if len(rest) == 0 {
		return nil
	}
	more, err := newRole(admin.Name, roleText(admin.Name, rest))
	if err != nil {
		return err
	}
	admin.Text += "\n" + more.Text
	admin.Verbs, admin.policies = append(admin.Verbs, more.Verbs...), append(admin.policies, more.policies...)
	return nil
}

func newRole(name, text string) (*Role, error) {
	r := &Role{Name: name, Text: text}
	var err error
	if r.policies, err = parse("role "+name, text); err != nil {
		return nil, fmt.Errorf("role %s: %w", name, err)
	}
	for _, p := range r.policies {
		if set, ok := p.AST().Action.(ast.ScopeTypeInSet); ok {
			for _, uid := range set.Entities {
				r.Verbs = append(r.Verbs, string(uid.ID))
			}
		}
	}
	return r, nil
}

// roleText is a role of these verbs. Names of roles and verbs need no escapes.
func roleText(name string, verbs []string) string {
	var b strings.Builder
	fmt.Fprintf(&b, "permit (\n  principal in Redoubt::Role::%q,\n  action in [", name)
	for i, v := range verbs {
		if i > 0 {
			b.WriteString(",")
		}
		fmt.Fprintf(&b, "\n    Redoubt::Action::%q", v)
	}
	b.WriteString("\n  ],\n  resource\n);\n")
	return b.String()
}
