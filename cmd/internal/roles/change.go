package roles

import (
	"maps"
	"slices"
	"strings"

	"github.com/cedar-policy/cedar-go"
	"github.com/cedar-policy/cedar-go/x/exp/ast"

	"github.com/redoubt-cluster/redoubt/cmd/internal/control/apierr"
	"github.com/redoubt-cluster/redoubt/internal/ident"
	"github.com/redoubt-cluster/redoubt/pki/pkipb"
	pkistore "github.com/redoubt-cluster/redoubt/pki/store"
	"github.com/redoubt-cluster/redoubt/raftstore"
)

// keyVerbs are what must be left to somebody: with them all else can be mended.
var keyVerbs = []string{"binding.create", "binding.remove", "policy.set", "policy.remove"}

// CreateRole adds a role of these verbs.
func CreateRole(tx *raftstore.Tx, name, description string, verbs []string) error {
	base, err := builtins()
	if err != nil {
		return err
	}
	if err := checkRoleName(name); err != nil {
		return err
	}
	before := setBefore(tx)
	_, taken := pkistore.CustomRoles.Get(tx, name)
	switch {
	case taken || base[name] != nil:
		return apierr.Exists("choose another name", "there is a role %s already", name)
	case pkistore.CustomRoles.Count(tx) >= MaxRoles:
		return apierr.State("remove one", "there are %d roles: at most %d are allowed", MaxRoles, MaxRoles)
	case len(verbs) == 0:
		return apierr.Invalid("name one at least: `redoubt auth verbs` lists them", "a role without a verb permits nothing")
	}
	if err := ident.CheckLine("the description", description, MaxDescription); err != nil {
		return apierr.Invalid("", "%v", err)
	}
	verbs = slices.Compact(slices.Sorted(slices.Values(verbs)))
	for _, v := range verbs {
		if _, ok := KindsOf(v); !ok {
			return apierr.Invalid("`redoubt auth verbs` lists them", "there is no verb %q", ident.Clip(v))
		}
	}
	if err := pkistore.CustomRoles.Put(tx, &pkipb.CustomRole{Id: name, Description: description, Verbs: verbs}); err != nil {
		return err
	}
	return changed(tx, before)
}

// RemoveRole removes a role that nobody has and no policy names.
func RemoveRole(tx *raftstore.Tx, name string) error {
	base, err := builtins()
	if err != nil {
		return err
	}
	if base[name] != nil {
		return apierr.State("", "role %s is built in", name)
	}
	before := setBefore(tx)
	if _, ok := pkistore.CustomRoles.Get(tx, name); !ok {
		return noRole(name)
	}
	for b := range pkistore.RoleBindings.All(tx) {
		if b.GetRole() == name {
			return apierr.State("`redoubt auth unbind` it first", "%s has the role %s", Named(tx, PrincipalOf(b.GetPrincipal())), name)
		}
	}
	for p := range pkistore.AccessPolicies.All(tx) {
		list, err := parse(p.GetId(), p.GetText())
		if err != nil {
			return err
		}
		for _, one := range list {
			if slices.Contains(entitiesOf((*ast.Policy)(one.AST())), cedar.NewEntityUID("Redoubt::Role", cedar.String(name))) {
				return apierr.State("change the policy first", "policy %s names the role %s", p.GetId(), name)
			}
		}
	}
	if err := pkistore.CustomRoles.Delete(tx, name); err != nil {
		return err
	}
	return changed(tx, before)
}

func noRole(name string) error {
	return apierr.NotFound("`redoubt auth role ls` lists them", "there is no role %q", ident.Clip(name))
}

// Bind gives the principal a role, where labels are not empty only for what has all
// of them. The principal's node is an id.
func Bind(tx *raftstore.Tx, role string, p Principal, labels map[string]string) (*pkipb.RoleBinding, error) {
	base, err := builtins()
	if err != nil {
		return nil, err
	}
	if _, ok := pkistore.CustomRoles.Get(tx, role); !ok && base[role] == nil {
		return nil, noRole(role)
	}
	if err := ident.CheckLabels("label", labels); err != nil {
		return nil, apierr.Invalid("", "%v", err)
	}
	if !exists(tx, p) {
		return nil, apierr.NotFound("", "there is no %s", Named(tx, p))
	}
	if pkistore.RoleBindings.Count(tx) >= MaxBindings {
		return nil, apierr.State("remove some", "there are %d bindings: at most %d are allowed", MaxBindings, MaxBindings)
	}
	for b := range pkistore.RoleBindings.All(tx) {
		if b.GetRole() == role && PrincipalOf(b.GetPrincipal()) == p && maps.Equal(b.GetLabels(), labels) {
			return nil, apierr.Exists("", "%s has the role %s already", Named(tx, p), role)
		}
	}
	before := setBefore(tx)
	b := &pkipb.RoleBinding{Id: ident.New(), Role: role, Principal: p.Record(), Labels: labels}
	if err := pkistore.RoleBindings.Put(tx, b); err != nil {
		return nil, err
	}
	return b, changed(tx, before)
}

// Unbind takes the role from the principal: the binding with just these labels.
func Unbind(tx *raftstore.Tx, role string, p Principal, labels map[string]string) error {
	var found *pkipb.RoleBinding
	for b := range pkistore.RoleBindings.All(tx) {
		if b.GetRole() == role && PrincipalOf(b.GetPrincipal()) == p && maps.Equal(b.GetLabels(), labels) {
			found = b
		}
	}
	if found == nil {
		return apierr.NotFound("`redoubt auth bindings` lists them", "%s has no such binding to role %q", Named(tx, p), ident.Clip(role))
	}
	before, err := Compile(tx)
	if err != nil {
		return err
	}
	if err := pkistore.RoleBindings.Delete(tx, found.GetId()); err != nil {
		return err
	}
	after, err := Compile(tx)
	if err != nil {
		return err
	}
	if !RootIsAdmin(tx, before) && RootIsAdmin(tx, after) {
		return apierr.State("bind another person to it first", "%s is the last %s", Named(tx, p), SecurityAdmin)
	}
	return changed(tx, before)
}

// Forget takes every role from a person who is removed: another one of that name
// would have them.
func Forget(tx *raftstore.Tx, person string) error {
	of := Principal{Kind: pkipb.Principal_KIND_PERSON, Name: person}
	var gone []string
	for b := range pkistore.RoleBindings.All(tx) {
		if PrincipalOf(b.GetPrincipal()) == of {
			gone = append(gone, b.GetId())
		}
	}
	if len(gone) == 0 {
		return nil
	}
	for _, id := range gone {
		if err := pkistore.RoleBindings.Delete(tx, id); err != nil {
			return err
		}
	}
	// Whom others must be without is removed all the same: nobody is kept because
	// policies ask for so many.
	return count(tx)
}

// SetPolicy adds a policy or replaces the one of that name.
func SetPolicy(tx *raftstore.Tx, name, text string) error {
	if err := ident.CheckName(name); err != nil {
		return apierr.Invalid("", "policy: %v", err)
	}
	s, err := Compile(tx)
	if err != nil {
		return err
	}
	if _, err := ParsePolicy(name, text, s.has); err != nil {
		return apierr.Invalid("", "%v", err)
	}
	old, ok := pkistore.AccessPolicies.Get(tx, name)
	if !ok && pkistore.AccessPolicies.Count(tx) >= MaxPolicies {
		return apierr.State("remove one", "there are %d policies: at most %d are allowed", MaxPolicies, MaxPolicies)
	}
	if err := pkistore.AccessPolicies.Put(tx, &pkipb.AccessPolicy{Meta: old.GetMeta(), Id: name, Text: text}); err != nil {
		return err
	}
	return changed(tx, s)
}

// RemovePolicy removes it.
func RemovePolicy(tx *raftstore.Tx, name string) error {
	if _, ok := pkistore.AccessPolicies.Get(tx, name); !ok {
		return apierr.NotFound("`redoubt auth policy ls` lists them", "there is no policy %q", ident.Clip(name))
	}
	before := setBefore(tx)
	if err := pkistore.AccessPolicies.Delete(tx, name); err != nil {
		return err
	}
	return changed(tx, before)
}

// setBefore is what a change begins with; nil: it does not compile, and what does is
// better.
func setBefore(tx *raftstore.Tx) *Set {
	s, err := Compile(tx)
	if err != nil {
		return nil
	}
	return s
}

// changed ends every change: what is to be must compile, and local root must be able
// to change it again when nobody else is, if it was before: where people and managers
// were lost since, what makes it better is not refused for not making it good.
func changed(tx *raftstore.Tx, before *Set) error {
	s, err := Compile(tx)
	if err != nil {
		return apierr.State("", "%v", err)
	}
	if err := s.attainable(tx, before); err != nil {
		return err
	}
	if !s.someoneLeft(tx, "") && (before == nil || before.someoneLeft(tx, "")) {
		return apierr.State("leave "+strings.Join(keyVerbs, ", ")+" and "+personInvite+" to managers' local roots, and have them need no more than there are; for "+personInvite+" count @parties",
			"with this nobody could change roles and policies any more once no person may")
	}
	return count(tx)
}

// count has what was compiled be compiled anew.
func count(tx *raftstore.Tx) error {
	state, _ := pkistore.AccessState.Get(tx, pkistore.AccessID)
	return pkistore.AccessState.Put(tx, &pkipb.AccessState{Meta: state.GetMeta(), Id: pkistore.AccessID, Changes: state.GetChanges() + 1})
}

// someoneLeft reports whether local root of a manager may do all of keyVerbs, were
// there no person who may: people's certificates end by themselves, and whoever was
// the last to have one is revoked when it is in other hands. Where people must be for
// it, too, it must be possible to invite those on record again, for managers alone.
// without is a manager that is to leave.
func (s *Set) someoneLeft(r raftstore.Reader, without string) bool {
	roots := s.localRoots(r, without)
	byPeople := s.approversOf(keyVerbs, s.callers(r, without))
	byRoots := s.approversOf([]string{personInvite}, roots)
	return slices.ContainsFunc(roots, func(p Principal) bool {
		return s.canHappen(p, personInvite, byRoots[personInvite], true) &&
			!slices.ContainsFunc(keyVerbs, func(v string) bool { return !s.canHappen(p, v, byPeople[v], true) })
	})
}

// approversOf are those of callers who count for each of these verbs, were there no
// person who is security-admin.
func (s *Set) approversOf(verbs []string, callers []Principal) map[string]*tally {
	out := map[string]*tally{}
	for _, v := range verbs {
		out[v] = s.approvers(v, callers, true)
	}
	return out
}

// MayLeave returns a refusal where nobody could change roles and policies any more
// without that manager, or invite people again.
func MayLeave(r raftstore.Reader, manager string) error {
	s, err := Compile(r)
	if err != nil || len(s.policies)+len(s.needs) == 0 {
		return err
	}
	if s.someoneLeft(r, "") && !s.someoneLeft(r, manager) {
		return apierr.State("add another manager first, or change the policies; --compromised takes it out all the same",
			"by the policies that there are, nobody could change roles and policies or invite people any more without manager %s, once no person may", nodeName(r, manager))
	}
	return nil
}

// callers are all who can call, or could once they come back.
func (s *Set) callers(r raftstore.Reader, without string) []Principal {
	out := s.localRoots(r, without)
	for p := range s.bindings {
		if p.Kind != pkipb.Principal_KIND_LOCAL_ROOT && exists(r, p) && (p.Node == "" || p.Node != without) {
			out = append(out, p)
		}
	}
	return out
}

func (s *Set) localRoots(r raftstore.Reader, without string) (out []Principal) {
	for n := range pkistore.Nodes.By(r, "role", "manager") {
		if p := (Principal{Kind: pkipb.Principal_KIND_LOCAL_ROOT, Node: n.GetId()}); exists(r, p) && n.GetId() != without {
			out = append(out, p)
		}
	}
	return out
}
