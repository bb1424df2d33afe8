package roles

import (
	"errors"
	"fmt"
	"iter"
	"slices"
	"strconv"
	"strings"

	"github.com/cedar-policy/cedar-go"
	"github.com/cedar-policy/cedar-go/types"
	"github.com/cedar-policy/cedar-go/x/exp/ast"

	"github.com/redoubt-cluster/redoubt/cmd/internal/control/apierr"
	"github.com/redoubt-cluster/redoubt/internal/ident"
	"github.com/redoubt-cluster/redoubt/pki/pkipb"
	"github.com/redoubt-cluster/redoubt/raftstore"
)

// A forbid with one of these says how many must be for what it is about, the one who
// does it among them; then it forbids no more. @people counts persons. @parties counts
// roots of managers, too. Users of a machine count for nothing: one person may be a user
// of several, and of the machine alone is known who is which.
const (
	peopleAnnotation  = "people"
	partiesAnnotation = "parties"
)

// approvalGrant is to be for somebody else's request; personInvite brings people back
// whose certificates have ended.
const (
	approvalGrant = "approval.grant"
	personInvite  = "person.invite"
)

// Need is how many must be for a request: that many persons, and that many parties.
type Need struct {
	People, Parties int
	// By are the policies that say so.
	By []string
}

// None reports whether the one who does it is enough.
func (n Need) None() bool { return n.People == 0 && n.Parties == 0 }

// String says it in a sentence.
func (n Need) String() string {
	var out []string
	if n.People > 0 {
		out = append(out, fmt.Sprintf("%d people", n.People))
	}
	if n.Parties > n.People {
		out = append(out, fmt.Sprintf("%d people or managers", n.Parties))
	}
	return strings.Join(out, " and ")
}

// and is what both ask for.
func (n Need) and(o Need) Need {
	by := n.By
	for _, b := range o.By {
		if !slices.Contains(by, b) && len(by) < maxWhy {
			by = append(by, b)
		}
	}
	return Need{max(n.People, o.People), max(n.Parties, o.Parties), by}
}

// counts reports whether p being for a request is one more who is.
func (p Principal) counts() bool { return p.Kind != pkipb.Principal_KIND_LOCAL_USER }

// tally is who is for a request, each once.
type tally struct{ people, parties map[string]bool }

func (t *tally) add(p Principal) {
	if t.parties == nil {
		t.people, t.parties = map[string]bool{}, map[string]bool{}
	}
	if !p.counts() {
		return
	}
	if t.parties[p.party()] = true; p.Kind == pkipb.Principal_KIND_PERSON {
		t.people[p.Name] = true
	}
}

func (t *tally) enough(n Need) bool { return len(t.people) >= n.People && len(t.parties) >= n.Parties }

// enoughWith is enough where p asks: of the machine that p is a user of nobody is for it.
func (t *tally) enoughWith(p Principal, n Need) bool {
	people, parties := len(t.people), len(t.parties)
	switch there := t.parties[p.party()]; {
	case there && !p.counts():
		parties--
	case !there && p.counts():
		parties++
	}
	if p.Kind == pkipb.Principal_KIND_PERSON && !t.people[p.Name] {
		people++
	}
	return people >= n.People && parties >= n.Parties
}

// of says how far it has come.
func (t *tally) of(n Need) string {
	var out []string
	if n.People > 0 {
		out = append(out, fmt.Sprintf("%d of %d people", len(t.people), n.People))
	}
	if n.Parties > n.People {
		out = append(out, fmt.Sprintf("%d of %d people or managers", len(t.parties), n.Parties))
	}
	return strings.Join(out, ", ")
}

// party is who p may be as well: whoever is root on a machine can be each of its users.
func (p Principal) party() string {
	if p.Kind == pkipb.Principal_KIND_PERSON {
		return "person " + p.Name
	}
	return "node " + p.Node
}

// needing is a statement that says how many must be for something.
type needing struct {
	statement
	need Need
}

func needOf(p *cedar.Policy) (n Need, _ error) {
	for key, to := range map[types.AnnotationKey]*int{peopleAnnotation: &n.People, partiesAnnotation: &n.Parties} {
		text, ok := p.Annotations()[key]
		if !ok {
			continue
		}
		k, err := strconv.Atoi(string(text))
		if err != nil || k < 2 || k > MaxPeople || strconv.Itoa(k) != string(text) {
			return Need{}, fmt.Errorf("@%s is a number from 2 to %d, with the one who does it among them, not %q", key, MaxPeople, ident.Clip(string(text)))
		}
		*to = k
	}
	if n.People > 0 && n.Parties > 0 {
		return Need{}, errors.New("@people and @parties are of two statements")
	}
	return n, nil
}

// checkNeed refuses a statement that asks for several people in a way in which it would
// do something else than it seems to.
func (v *vocabulary) checkNeed(p *cedar.Policy, tree *ast.Policy) error {
	n, err := needOf(p)
	if err != nil || n.None() {
		return err
	}
	if p.Effect() != cedar.Forbid {
		return errors.New("@people and @parties stand before a forbid, which then holds until so many are for it; roles permit")
	}
	var verbs []string
	switch a := tree.Action.(type) {
	case ast.ScopeTypeEq:
		verbs = []string{string(a.Entity.ID)}
	case ast.ScopeTypeInSet:
		for _, uid := range a.Entities {
			verbs = append(verbs, string(uid.ID))
		}
	}
	if len(verbs) == 0 {
		return errors.New("@people and @parties are for verbs that the statement names: action == … or action in […]")
	}
	for _, verb := range verbs {
		if v.action(verb) && !v.approvable[verb] {
			return fmt.Errorf("%s cannot wait for several people, only %s", ident.Clip(verb), strings.Join(v.approvableVerbs(), ", "))
		}
	}
	return nil
}

func (v *vocabulary) approvableVerbs() []string {
	return slices.DeleteFunc(slices.Clone(v.verbs), func(verb string) bool { return !v.approvable[verb] })
}

// All implements cedar.PolicyIterator.
func (l needList) All() iter.Seq2[cedar.PolicyID, *cedar.Policy] {
	return func(yield func(cedar.PolicyID, *cedar.Policy) bool) {
		for _, n := range l {
			if !yield(n.id, n.policy) {
				return
			}
		}
	}
}

type needList []needing

// needFor is what the statements that are about a question ask for together.
func (s *Set) needFor(all *entities, q cedar.Request) (out Need, _ error) {
	_, why := cedar.Authorize(needList(s.needs), all, q)
	if len(why.Errors) > 0 {
		return out, fmt.Errorf("%s, which fails", why.Errors[0].PolicyID)
	}
	for _, r := range why.Reasons {
		for _, n := range s.needs {
			if n.id == r.PolicyID {
				out = out.and(Need{n.need.People, n.need.Parties, []string{string(n.id)}})
			}
		}
	}
	return out, nil
}

// approvers are those of callers who count where a verb is done to the cluster.
func (s *Set) approvers(verb string, callers []Principal, rootAdmin bool) *tally {
	t := new(tally)
	for _, p := range callers {
		if len(s.needs) > 0 && s.decide(p, verb, Resource{}, rootAdmin).Allowed && s.decide(p, approvalGrant, Resource{}, rootAdmin).Allowed {
			t.add(p)
		}
	}
	return t
}

// canHappen reports whether p may do a verb to the cluster, with as many of approvers
// for it as it needs.
func (s *Set) canHappen(p Principal, verb string, approvers *tally, rootAdmin bool) bool {
	d := s.decide(p, verb, Resource{}, rootAdmin)
	return d.Allowed && (d.Need.None() || approvers.enoughWith(p, d.Need))
}

// attainable refuses what asks for more people than there are: somebody who may do a
// verb must find as many as it needs, if anybody did before.
func (s *Set) attainable(r raftstore.Reader, before *Set) error {
	v, err := words()
	if err != nil || len(s.needs) == 0 {
		return err
	}
	rootAdmin := RootIsAdmin(r, s)
	for _, verb := range v.approvableVerbs() {
		may, can := s.whoCan(r, verb)
		if len(may) > 0 && !can {
			if before != nil {
				if _, could := before.whoCan(r, verb); !could {
					continue
				}
			}
			d := s.decide(may[0], verb, Resource{}, rootAdmin)
			return apierr.State("ask for fewer, or give others a role with it and "+approvalGrant, "nobody could %s any more: %s must be for it (%s), and there are not so many who may", verb, d.Need, strings.Join(d.Need.By, "; "))
		}
	}
	return nil
}

// whoCan are those who may do a verb to the cluster; can: one of them finds as many as it
// needs.
func (s *Set) whoCan(r raftstore.Reader, verb string) (may []Principal, can bool) {
	rootAdmin := RootIsAdmin(r, s)
	may = slices.DeleteFunc(s.callers(r, ""), func(p Principal) bool { return !s.decide(p, verb, Resource{}, rootAdmin).Allowed })
	approvers := s.approvers(verb, may, rootAdmin)
	return may, slices.ContainsFunc(may, func(p Principal) bool { return s.canHappen(p, verb, approvers, rootAdmin) })
}
