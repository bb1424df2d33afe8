package roles

import (
	"fmt"
	"iter"
	"slices"
	"strings"

	"github.com/cedar-policy/cedar-go"

	"github.com/redoubt-cluster/redoubt/pki/pkipb"
	pkistore "github.com/redoubt-cluster/redoubt/pki/store"
	"github.com/redoubt-cluster/redoubt/raftstore"
)

// Set is all that was in the store at one time, compiled. It is not changed.
type Set struct {
	of       version
	roles    map[string]*Role
	policies []statement
	// needs are those policies' statements that say how many must be for a request.
	needs    []needing
	bindings map[Principal][]*pkipb.RoleBinding
	// admins are the persons who have the role security-admin for everything.
	admins []string
}

type statement struct {
	id     cedar.PolicyID
	policy *cedar.Policy
}

// version tells sets apart.
type version struct{ changes, index uint64 }

func versionOf(r raftstore.Reader) version {
	s, _ := pkistore.AccessState.Get(r, pkistore.AccessID)
	return version{s.GetChanges(), s.GetMeta().GetVersion()}
}

// Compile makes the set of what r has.
func Compile(r raftstore.Reader) (*Set, error) {
	base, err := builtins()
	if err != nil {
		return nil, err
	}
	s := &Set{of: versionOf(r), roles: make(map[string]*Role, len(base)), bindings: map[Principal][]*pkipb.RoleBinding{}}
	for name, role := range base {
		s.roles[name] = role
	}
	if s.roles[BreakGlass], err = breakGlassRole(); err != nil {
		return nil, err
	}
	for c := range pkistore.CustomRoles.All(r) {
		role, err := newRole(c.GetId(), roleText(c.GetId(), c.GetVerbs()))
		if err != nil {
			return nil, err
		}
		role.Description = c.GetDescription()
		s.roles[c.GetId()] = role
	}
	for p := range pkistore.AccessPolicies.All(r) {
		list, err := parse(p.GetId(), p.GetText())
		if err != nil {
			return nil, fmt.Errorf("policy %s: %w", p.GetId(), err)
		}
		for i, one := range list {
			st := statement{cedar.PolicyID(fmt.Sprintf("policy %s, statement %d", p.GetId(), i+1)), one}
			need, err := needOf(one)
			switch {
			case err != nil:
				return nil, fmt.Errorf("%s: %w", st.id, err)
			case need.None():
				s.policies = append(s.policies, st)
			case p.GetSuspended(): // until it is set anew
			default:
				s.needs = append(s.needs, needing{st, need})
			}
		}
	}
	if n := len(s.policies) + len(s.needs); n > MaxAllStatements {
		return nil, fmt.Errorf("the policies have %d statements together: at most %d are allowed", n, MaxAllStatements)
	}
	for b := range pkistore.RoleBindings.All(r) {
		p := PrincipalOf(b.GetPrincipal())
		s.bindings[p] = append(s.bindings[p], b)
		if p.Kind == pkipb.Principal_KIND_PERSON && b.GetRole() == SecurityAdmin && len(b.GetLabels()) == 0 {
			s.admins = append(s.admins, p.Name)
		}
	}
	return s, nil
}

func (s *Set) has(role string) bool { return s.roles[role] != nil }

// Roles lists them, the built-in ones first.
func (s *Set) Roles() (out []*Role) {
	for _, name := range BuiltinNames {
		out = append(out, s.roles[name])
	}
	var own []*Role
	for _, r := range s.roles {
		if !r.Builtin {
			own = append(own, r)
		}
	}
	slices.SortFunc(own, func(a, b *Role) int { return strings.Compare(a.Name, b.Name) })
	return append(out, own...)
}

// Decision is the answer to one question.
type Decision struct {
	Allowed bool
	// By are the roles and policies that decided: those that permit it, or those
	// that forbid it. Nothing: none says anything.
	By []string
	// Roles are those that the principal has for the resource.
	Roles []string
	// Need is how many must be for what is allowed.
	Need Need
}

// Why is the decision in words.
func (d Decision) Why() string {
	switch {
	case d.Allowed && !d.Need.None():
		return fmt.Sprintf("permitted by %s; %s must be for it, the one who does it among them, by %s", strings.Join(d.By, "; "), d.Need, strings.Join(d.Need.By, "; "))
	case d.Allowed:
		return "permitted by " + strings.Join(d.By, "; ")
	case len(d.By) > 0:
		return "forbidden by " + strings.Join(d.By, "; ")
	case len(d.Roles) > 0:
		return fmt.Sprintf("neither role %s nor a policy permits it", strings.Join(d.Roles, ", "))
	}
	return "no role there and no policy permits it"
}

// decide asks roles and policies. rootAdmin: local root is security-admin as well.
// more are roles that the principal has besides.
func (s *Set) decide(p Principal, verb string, on Resource, rootAdmin bool, more ...string) Decision {
	v, err := words()
	if err != nil {
		return Decision{}
	}
	d := Decision{Roles: s.rolesOf(p, on, rootAdmin)}
	for _, name := range more {
		if !slices.Contains(d.Roles, name) {
			d.Roles = append(d.Roles, name)
		}
	}
	if by, ok := s.plainly(d.Roles, verb); ok {
		d.Allowed, d.By = len(by) > 0, by
		return d
	}
	all := &entities{p: p, roles: d.Roles, on: on, who: p.uid(), what: on.uid(), actions: v.actions}
	q := cedar.Request{Principal: all.who, Action: actionUID(verb), Resource: all.what}
	answer, why := cedar.Authorize(asked{s, d.Roles, verb}, all, q)
	if len(why.Errors) > 0 {
		// One that fails might have forbidden it.
		d.By = []string{string(why.Errors[0].PolicyID) + ", which fails"}
		return d
	}
	d.Allowed = answer == cedar.Allow
	for _, r := range why.Reasons[:min(len(why.Reasons), maxWhy)] {
		d.By = append(d.By, string(r.PolicyID))
	}
	if !d.Allowed || len(s.needs) == 0 {
		return d
	}
	need, err := s.needFor(all, q)
	if err != nil {
		return Decision{Roles: d.Roles, By: []string{err.Error()}}
	}
	d.Need = need
	return d
}

// plainly is which of roles permit the verb, where no policy and no role says more than
// that a list of verbs is permitted; ok: it is so.
func (s *Set) plainly(roles []string, verb string) (by []string, ok bool) {
	if len(s.policies) > 0 || len(s.needs) > 0 {
		return nil, false
	}
	for _, name := range roles {
		switch role := s.roles[name]; {
		case role == nil: // it permits nothing
		case !role.plain:
			return nil, false
		case slices.Contains(role.Verbs, verb):
			by = append(by, role.by)
		}
	}
	return by[:min(len(by), maxWhy)], true
}

// rolesOf are the roles that p has for that resource, each once.
func (s *Set) rolesOf(p Principal, on Resource, rootAdmin bool) (out []string) {
	if p.Kind == pkipb.Principal_KIND_LOCAL_ROOT {
		out = append(out, Operator)
		if rootAdmin {
			out = append(out, SecurityAdmin)
		}
	}
	for _, b := range s.bindings[p] {
		if on.has(b.GetLabels()) && !slices.Contains(out, b.GetRole()) {
			out = append(out, b.GetRole())
		}
	}
	return out
}

// asked are the statements that can say something: those of the roles that the
// principal has that are about the verb, and all policies.
type asked struct {
	set   *Set
	roles []string
	verb  string
}

// All implements cedar.PolicyIterator.
func (a asked) All() iter.Seq2[cedar.PolicyID, *cedar.Policy] {
	return func(yield func(cedar.PolicyID, *cedar.Policy) bool) {
		for _, name := range a.roles {
			if role := a.set.roles[name]; role != nil {
				for _, p := range role.about(a.verb) {
					if !yield(cedar.PolicyID(role.by), p) {
						return
					}
				}
			}
		}
		for _, s := range a.set.policies {
			if !yield(s.id, s.policy) {
				return
			}
		}
	}
}

// entities are those of one question, each made when a statement first asks for it.
type entities struct {
	p         Principal
	roles     []string
	on        Resource
	who, what cedar.EntityUID
	actions   cedar.EntityMap

	principal, resource *cedar.Entity // nil: not yet
}

// Get implements cedar.EntityGetter.
func (e *entities) Get(uid cedar.EntityUID) (cedar.Entity, bool) {
	switch uid {
	case e.who:
		if e.principal == nil {
			parents := make([]cedar.EntityUID, len(e.roles))
			for i, name := range e.roles {
				parents[i] = roleUID(name)
			}
			e.principal = &cedar.Entity{UID: e.who, Parents: cedar.NewEntityUIDSet(parents...)}
		}
		return *e.principal, true
	case e.what:
		if e.resource == nil {
			made := e.on.entity()
			e.resource = &made
		}
		return *e.resource, true
	}
	a, ok := e.actions[uid]
	return a, ok
}
