package roles

import (
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/redoubt-cluster/redoubt/cmd/internal/control/apierr"
	"github.com/redoubt-cluster/redoubt/internal/ident"
	"github.com/redoubt-cluster/redoubt/pki/pkipb"
	pkistore "github.com/redoubt-cluster/redoubt/pki/store"
	"github.com/redoubt-cluster/redoubt/raftstore"
)

// BreakGlass is the role that local root of a manager has while it broke the glass.
// Nobody is bound to it.
const BreakGlass = "break-glass"

// coveredVerbs are what break-glass permits beside what an operator may: who may do
// what, and who is shut out. What is not here it never covers; node.revoke is not, as no
// node comes back from that. Removing nodes is an operator's.
var coveredVerbs = []string{
	"admission.inspect", "audit.list", "audit.verify", "binding.create", "binding.list", "binding.remove", "ca.inspect", "compliance.run",
	"identity.allow", "identity.revoke", "node.approve", "node.reject", "node.rotate-key",
	"person.invite", "person.list", "person.remove", "person.revoke", "policy.list", "policy.remove", "policy.set",
	"role.create", "role.list", "role.remove", "slot.list", "token.list", "token.revoke",
}

var breakGlassRole = sync.OnceValues(func() (*Role, error) {
	r, err := newRole(BreakGlass, roleText(BreakGlass, coveredVerbs))
	if err != nil {
		return nil, err
	}
	r.Builtin, r.Description = true, "what local root may besides, while it broke the glass"
	return r, nil
})

// Uncovered are the verbs of security-admin that change something and that break-glass
// never covers: keys, slots, CAs, autolock, and whatever is not known to be
// recoverable; and with them the word of a second person. While one is not acknowledged, only those have them who were
// security-admin before it.
func Uncovered() ([]string, error) {
	base, err := builtins()
	if err != nil {
		return nil, err
	}
	return slices.DeleteFunc(slices.Clone(base[SecurityAdmin].Verbs), func(v string) bool {
		return slices.Contains(coveredVerbs, v) || slices.Contains(base[Operator].Verbs, v) && !strings.HasPrefix(v, "approval.") || looks(v)
	}), nil
}

// looks reports whether a verb changes nothing.
func looks(verb string) bool {
	_, action, _ := strings.Cut(verb, ".")
	return slices.Contains([]string{"inspect", "list", "read", "show", "status", "verify"}, action)
}

// BrokenVerbs are all that local root of a manager may do while it broke the glass, as
// far as no policy forbids it.
func BrokenVerbs() ([]string, error) {
	base, err := builtins()
	if err != nil {
		return nil, err
	}
	never, err := Uncovered()
	if err != nil {
		return nil, err
	}
	verbs := slices.Concat(coveredVerbs, base[Operator].Verbs)
	verbs = slices.DeleteFunc(verbs, func(v string) bool { return slices.Contains(never, v) })
	slices.Sort(verbs)
	return slices.Compact(verbs), nil
}

// Glasses counts the break-glasses that nobody acknowledged, and of these the ones that
// are not over.
func Glasses(r raftstore.Reader) (open, active int) {
	for b := range pkistore.BreakGlasses.All(r) {
		open++
		if Broken(r, b) {
			active++
		}
	}
	return open, active
}

// Bounds of a break-glass.
const (
	MinBreakGlass = time.Minute
	MaxBreakGlass = 4 * time.Hour
	// ackDelay is how long after its end one that is none of its witnesses may
	// acknowledge a break-glass, where none of them can call.
	ackDelay = 24 * time.Hour
	// maxReason is in bytes.
	maxReason = 256
)

// now is the store's time, or this machine's where that is later: it goes on while
// nothing is written.
func now(r raftstore.Reader) time.Time {
	t := time.Now()
	switch r := r.(type) {
	case *raftstore.Tx:
		return later(t, r.Now())
	case *raftstore.ReadTx:
		return later(t, r.Clock())
	}
	return t
}

func later(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}

// Broken reports whether that record's manager has the rights of break-glass now.
func Broken(r raftstore.Reader, b *pkipb.BreakGlass) bool {
	return now(r).Before(time.Unix(0, b.GetUntil()))
}

// Break has local root of a manager be security-admin, but for what Uncovered says, for
// so long. Repeated it begins anew, and stays the one that it was for whoever is to
// acknowledge it.
func Break(tx *raftstore.Tx, node, reason string, d time.Duration) (*pkipb.BreakGlass, error) {
	reason = strings.TrimSpace(reason)
	switch {
	case reason == "":
		return nil, apierr.Invalid("say why: everybody reads it", "break-glass needs a reason")
	case d < MinBreakGlass || d > MaxBreakGlass:
		return nil, apierr.Invalid("", "break-glass is for %s to %s, and not for %s", MinBreakGlass, MaxBreakGlass, d)
	case !managerExists(tx, node):
		return nil, apierr.Denied("", "this node is no manager")
	}
	if err := ident.CheckLine("the reason", reason, maxReason); err != nil {
		return nil, apierr.Invalid("", "%v", err)
	}
	s, err := Compile(tx)
	if err != nil {
		return nil, err
	}
	old, open := pkistore.BreakGlasses.Get(tx, node)
	if RootIsAdmin(tx, s) && !open {
		return nil, apierr.State("just do it", "no person is %s who can call: local root is, already", SecurityAdmin)
	}
	at := tx.Now().UnixNano()
	b := &pkipb.BreakGlass{Meta: old.GetMeta(), Id: node, Reason: reason, Since: at, Until: at + int64(d), Times: old.GetTimes() + 1, Witnesses: old.GetWitnesses()}
	if open {
		b.Since = old.GetSince()
	} else {
		b.Witnesses = witnesses(tx, s)
	}
	return b, pkistore.BreakGlasses.Put(tx, b)
}

// witnesses are those who are security-admin and can call, by name. While a break-glass
// is not acknowledged, whoever is security-admin besides its witnesses may have that from
// it, and is none of another's; and its witnesses are security-admin, whoever unbound
// them.
func witnesses(r raftstore.Reader, s *Set) (out []string) {
	from := s.admins
	for i, b := range slices.Collect(pkistore.BreakGlasses.All(r)) {
		if i == 0 {
			from = b.GetWitnesses()
			continue
		}
		from = slices.DeleteFunc(slices.Clone(from), func(name string) bool { return !slices.Contains(b.GetWitnesses(), name) })
	}
	for _, name := range from {
		if personCalls(r, name) {
			out = append(out, name)
		}
	}
	slices.Sort(out)
	return slices.Compact(out)
}

// EndBreak ends what local root of that manager began. It is still to be acknowledged.
func EndBreak(tx *raftstore.Tx, node string) error {
	b, ok := pkistore.BreakGlasses.Get(tx, node)
	if !ok || !Broken(tx, b) {
		return apierr.State("", "there is no break-glass of this manager's root under way")
	}
	return pkistore.BreakGlasses.Put(tx, &pkipb.BreakGlass{Meta: b.GetMeta(), Id: node, Reason: b.GetReason(), Since: b.GetSince(),
		Until: tx.Now().UnixNano(), Times: b.GetTimes(), Witnesses: b.GetWitnesses()})
}

// Acknowledge ends a break-glass for good. Who was security-admin before it says so, or,
// where none of them can call any more, who is security-admin otherwise, a day after its
// end: the end of one certificate shall not have it acknowledge itself.
func Acknowledge(tx *raftstore.Tx, node string, by Principal) error {
	b, ok := pkistore.BreakGlasses.Get(tx, node)
	if !ok {
		return apierr.NotFound("`redoubt break-glass ls` lists them", "there is no break-glass of %s to acknowledge", Named(tx, Principal{Kind: pkipb.Principal_KIND_LOCAL_ROOT, Node: node}))
	}
	if !witness(b, by) {
		for _, name := range b.GetWitnesses() {
			if personCalls(tx, name) {
				return apierr.Denied("have person:"+name+" do it", "%s was not %s before this break-glass", Named(tx, by), SecurityAdmin)
			}
		}
		if from := time.Unix(0, b.GetUntil()).Add(ackDelay); tx.Now().Before(from) {
			return apierr.Denied("wait until "+from.UTC().Format(time.RFC3339), "%s was not %s before this break-glass, and it is not over for %s", Named(tx, by), SecurityAdmin, ackDelay)
		}
		s, err := Compile(tx)
		if err != nil {
			return err
		}
		if !slices.Contains(s.rolesOf(by, Resource{}, RootIsAdmin(tx, s)), SecurityAdmin) {
			return apierr.Denied("", "%s is not %s", Named(tx, by), SecurityAdmin)
		}
	}
	return pkistore.BreakGlasses.Delete(tx, node)
}

func witness(b *pkipb.BreakGlass, p Principal) bool {
	return p.Kind == pkipb.Principal_KIND_PERSON && slices.Contains(b.GetWitnesses(), p.Name)
}

// MayLose returns a refusal where by may not have that person revoked or removed, who is
// to acknowledge a break-glass: nobody but another witness of it may, and never the last
// who can call. Whoever broke the glass would have nobody left to answer to.
func MayLose(r raftstore.Reader, by Principal, person string) error {
	for b := range pkistore.BreakGlasses.All(r) {
		if !slices.Contains(b.GetWitnesses(), person) {
			continue
		}
		others := func(name string) bool { return name != person && personCalls(r, name) }
		if !slices.ContainsFunc(b.GetWitnesses(), others) {
			return apierr.State("have person:"+person+" acknowledge it first", "person:%s is the last %s of before the break-glass of %s", person, SecurityAdmin, brokenBy(r, b))
		}
		if !witness(b, by) {
			return apierr.Denied("have it acknowledged first: `redoubt break-glass ack`", "person:%s is one of those who are to acknowledge the break-glass of %s, and only they may do that", person, brokenBy(r, b))
		}
	}
	return nil
}

// MayInvite returns a refusal where that name is of one who is to acknowledge a
// break-glass: whoever takes the invitation would be that one.
func MayInvite(r raftstore.Reader, person string) error {
	for b := range pkistore.BreakGlasses.All(r) {
		if slices.Contains(b.GetWitnesses(), person) {
			return apierr.State("have it acknowledged first: `redoubt break-glass ack`", "person:%s is one of those who are to acknowledge the break-glass of %s", person, brokenBy(r, b))
		}
	}
	return nil
}

func brokenBy(r raftstore.Reader, b *pkipb.BreakGlass) string {
	return Named(r, Principal{Kind: pkipb.Principal_KIND_LOCAL_ROOT, Node: b.GetId()})
}

// Announcement is what everybody hears of a break-glass.
func Announcement(r raftstore.Reader, b *pkipb.BreakGlass) string {
	until := time.Unix(0, b.GetUntil()).UTC().Format(time.RFC3339)
	how := "broke the glass and is " + SecurityAdmin + " until " + until
	if !Broken(r, b) {
		how = "broke the glass and was " + SecurityAdmin + " until " + until
	}
	return fmt.Sprintf("%s %s (%s): `redoubt break-glass ack %s` when it was looked into", brokenBy(r, b), how, b.GetReason(), nodeName(r, b.GetId()))
}

func nodeName(r raftstore.Reader, id string) string {
	if n, ok := pkistore.Nodes.Get(r, id); ok && n.GetName() != "" {
		return n.GetName()
	}
	return id
}

// Announcements are those of all that nobody acknowledged.
func Announcements(r raftstore.Reader) (out []string) {
	for b := range pkistore.BreakGlasses.All(r) {
		out = append(out, Announcement(r, b))
	}
	return out
}

// Announced are the announcements that p is to hear with each answer: those of a
// security-admin.
func (e *Engine) Announced(r raftstore.Reader, p Principal) []string {
	if pkistore.BreakGlasses.Count(r) == 0 {
		return nil
	}
	s, err := e.Set(r)
	if err != nil || p.Kind != pkipb.Principal_KIND_PERSON {
		return nil
	}
	heard := slices.Contains(s.admins, p.Name)
	for b := range pkistore.BreakGlasses.All(r) {
		heard = heard || witness(b, p)
	}
	if !heard {
		return nil
	}
	return Announcements(r)
}

// besides are the roles that p has by break-glasses: local root by its own, and who was
// security-admin before one stays that, whoever unbound them since.
func besides(r raftstore.Reader, p Principal) (out []string) {
	for b := range pkistore.BreakGlasses.All(r) {
		switch {
		case witness(b, p):
			return []string{SecurityAdmin}
		case p.Kind == pkipb.Principal_KIND_LOCAL_ROOT && p.Node == b.GetId() && Broken(r, b):
			out = append(out, BreakGlass)
		}
	}
	return out
}

// withheld says why p does not have a verb, whatever roles and policies say: who was
// given it since a break-glass may have it from that. Empty: nothing withholds it.
func withheld(r raftstore.Reader, p Principal, verb string) string {
	if pkistore.BreakGlasses.Count(r) == 0 {
		return ""
	}
	list, err := Uncovered()
	if err == nil && !slices.Contains(list, verb) {
		return ""
	}
	for b := range pkistore.BreakGlasses.All(r) {
		if !witness(b, p) {
			return "the break-glass of " + brokenBy(r, b) + ", which nobody acknowledged: only those have it who had it before"
		}
	}
	return ""
}

// checkRoleName returns an error for a name that no role of the store may have.
func checkRoleName(name string) error {
	if name == BreakGlass {
		return apierr.Exists("choose another name", "%s is the role of who broke the glass", name)
	}
	if err := ident.CheckName(name); err != nil {
		return apierr.Invalid("", "role: %v", err)
	}
	return nil
}
