package roles

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/cedar-policy/cedar-go"
	"github.com/cedar-policy/cedar-go/types"
	"github.com/cedar-policy/cedar-go/x/exp/ast"

	"github.com/redoubt-cluster/redoubt/internal/ident"
)

// ParsePolicy reads a policy document and holds it against the vocabulary. known
// says which roles there are. Errors are one line and name the statement.
func ParsePolicy(name, text string, known func(role string) bool) ([]*cedar.Policy, error) {
	v, err := words()
	if err != nil {
		return nil, err
	}
	if len(text) > MaxPolicyBytes {
		return nil, fmt.Errorf("the policy is %d bytes long: at most %d are allowed", len(text), MaxPolicyBytes)
	}
	list, err := parse(name, text)
	switch {
	case err != nil:
		return nil, err
	case len(list) == 0:
		return nil, errors.New("the policy has no statement: write permit (…); or forbid (…);")
	case len(list) > MaxStatements:
		return nil, fmt.Errorf("the policy has %d statements: at most %d are allowed", len(list), MaxStatements)
	}
	for i, p := range list {
		if err := v.check(p, known); err != nil {
			return nil, fmt.Errorf("statement %d (line %d): %s", i+1, p.Position().Line, oneLine(err))
		}
	}
	return list, nil
}

// parse reads what was held against the vocabulary when it was written. A version that
// knows a verb no more has it match nothing.
func parse(name, text string) ([]*cedar.Policy, error) {
	list, err := cedar.NewPolicyListFromBytes(name, []byte(text))
	if err != nil {
		return nil, fmt.Errorf("the policy does not parse: %s", oneLine(err))
	}
	return list, nil
}

func (v *vocabulary) check(p *cedar.Policy, known func(string) bool) error {
	for key := range p.Annotations() {
		if key != "description" && key != peopleAnnotation && key != partiesAnnotation {
			// One that nobody heeds would be taken for one that is.
			return fmt.Errorf("there is no annotation @%s, only @description, @people and @parties", ident.Clip(string(key)))
		}
	}
	tree := (*ast.Policy)(p.AST())
	if err := v.checkNeed(p, tree); err != nil {
		return err
	}
	for _, uid := range entitiesOf(tree) {
		switch {
		case uid.Type == "Redoubt::Role" && !known(string(uid.ID)):
			return fmt.Errorf("there is no role %q", ident.Clip(string(uid.ID)))
		case uid.Type == "Redoubt::Action" && !v.action(string(uid.ID)):
			return fmt.Errorf("there is no verb %q: `redoubt auth verbs` lists them", ident.Clip(string(uid.ID)))
		case uid.Type == "Redoubt::Cluster" && uid != clusterUID:
			return fmt.Errorf("the cluster is %s", clusterUID)
		}
	}
	return v.valid.Policy("", tree)
}

func (v *vocabulary) action(id string) bool {
	if _, found := slices.BinarySearch(v.verbs, id); found {
		return true
	}
	return slices.ContainsFunc(v.verbs, func(verb string) bool { return strings.HasPrefix(verb, id+".") })
}

// entitiesOf are all that a statement names.
func entitiesOf(p *ast.Policy) (out []types.EntityUID) {
	for _, scope := range []any{p.Principal, p.Action, p.Resource} {
		switch s := scope.(type) {
		case ast.ScopeTypeEq:
			out = append(out, s.Entity)
		case ast.ScopeTypeIn:
			out = append(out, s.Entity)
		case ast.ScopeTypeInSet:
			out = append(out, s.Entities...)
		case ast.ScopeTypeIsIn:
			out = append(out, s.Entity)
		}
	}
	for _, c := range p.Conditions {
		ast.Inspect(ast.NewNode(c.Body), func(n ast.IsNode) bool {
			if v, ok := n.(ast.NodeValue); ok {
				if uid, ok := v.Value.(types.EntityUID); ok {
					out = append(out, uid)
				}
			}
			return true
		})
	}
	return out
}

// oneLine is what Cedar says, within bounds.
func oneLine(err error) string {
	s := strings.Join(strings.Fields(err.Error()), " ")
	if len(s) > 240 {
		s = strings.ToValidUTF8(s[:240], "") + "…"
	}
	return s
}
