package roles

import (
	"embed"
	"fmt"
	"slices"
	"strings"
	"sync"

	"github.com/cedar-policy/cedar-go"
	publicast "github.com/cedar-policy/cedar-go/ast"
	"github.com/cedar-policy/cedar-go/types"
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
	// by is what decisions call it.
	by string
	// plain: they do no more than to permit Verbs to who has the role.
	plain bool
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
	admin.Verbs, admin.policies, admin.plain = append(admin.Verbs, more.Verbs...), append(admin.policies, more.policies...), admin.plain && more.plain
	return nil
}

func newRole(name, text string) (*Role, error) {
	r := &Role{Name: name, Text: text, by: "role " + name}
	var err error
	if r.policies, err = parse("role "+name, text); err != nil {
		return nil, fmt.Errorf("role %s: %w", name, err)
	}
	r.plain = true
	for _, p := range r.policies {
		r.plain = r.plain && plain(name, (*ast.Policy)(p.AST()))
		if set, ok := p.AST().Action.(ast.ScopeTypeInSet); ok {
			for _, uid := range set.Entities {
				r.Verbs = append(r.Verbs, string(uid.ID))
			}
		}
	}
	return r, nil
}

// plain reports whether a statement permits the verbs that it names, and not by their
// group, to who has the role, whatever they are done to: what it says of a verb can be
// told without asking it.
func plain(role string, p *ast.Policy) bool {
	who, ok := p.Principal.(ast.ScopeTypeIn)
	if !ok || who.Entity != roleUID(role) || p.Effect != ast.EffectPermit || len(p.Conditions) > 0 {
		return false
	}
	if _, all := p.Resource.(ast.ScopeTypeAll); !all {
		return false
	}
	verbs, ok := p.Action.(ast.ScopeTypeInSet)
	return ok && !slices.ContainsFunc(verbs.Entities, func(uid types.EntityUID) bool {
		return uid.Type != actionType || !strings.Contains(string(uid.ID), ".") // a group is a verb's first part
	})
}

// about are the role's statements that can say something of a verb.
func (r *Role) about(verb string) []*cedar.Policy {
	switch {
	case !r.plain:
		return r.policies
	case slices.Contains(r.Verbs, verb):
		return yes
	}
	return nil
}

// yes is what is left of a plain role for a verb that it has.
var yes = []*cedar.Policy{cedar.NewPolicyFromAST(publicast.Permit())}

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
