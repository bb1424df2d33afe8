package roles

import (
	"regexp"
	"slices"
	"strings"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/redoubt-cluster/redoubt/cmd/internal/approvable"
	"github.com/redoubt-cluster/redoubt/cmd/internal/control/apierr"
	"github.com/redoubt-cluster/redoubt/cmd/internal/control/controlpb"
	"github.com/redoubt-cluster/redoubt/internal/ident"
	"github.com/redoubt-cluster/redoubt/internal/strictpb"
	"github.com/redoubt-cluster/redoubt/pki/authz"
	"github.com/redoubt-cluster/redoubt/pki/pkipb"
	pkistore "github.com/redoubt-cluster/redoubt/pki/store"
	"github.com/redoubt-cluster/redoubt/raftstore"
	"github.com/redoubt-cluster/redoubt/raftstore/resolve"
	schedstore "github.com/redoubt-cluster/redoubt/scheduler/store"
)

// encodeApprovable is the request as it is kept, hashed and shown, without what is
// fresh. It refuses one that says something else to those who read it than it does when
// it takes effect.
func encodeApprovable(request proto.Message) ([]byte, error) {
	if t := strictpb.Unknown(request); t != "" {
		return nil, apierr.Invalid("use the same version of redoubt as the managers'", "the request has fields that the leader does not know (%s), so nobody could approve it", t)
	}
	request = proto.Clone(request)
	for _, fd := range approvable.Fresh(request) {
		request.ProtoReflect().Clear(fd)
	}
	b, err := proto.MarshalOptions{Deterministic: true}.Marshal(request)
	if err == nil && len(b) > MaxApprovable {
		err = apierr.Invalid("make it smaller", "a request that others must approve is at most %d bytes long, not %d", MaxApprovable, len(b))
	}
	return b, err
}

var fingerprint = regexp.MustCompile(`^[A-Z2-7]{4}(-[A-Z2-7]{4}){3}$`)

// exact refuses names that may be another's when the request takes effect.
func exact(reader raftstore.Reader, request proto.Message) error {
	switch r := request.(type) {
	case *controlpb.DecidePendingRequest:
		if !fingerprint.MatchString(r.GetNode()) {
			return apierr.Invalid("`redoubt node pending` shows it", "others must approve this: name the machine by its whole fingerprint")
		}
	case *controlpb.PromoteNodeRequest:
		if !ident.Valid(r.GetNode()) {
			return inexactNode()
		}
	case *controlpb.ExecRequest:
		// A service's id is not enough: which of its tasks is first may change.
		if _, ok := schedstore.Tasks.Get(reader, r.GetTarget()); !ok {
			return apierr.Invalid("`redoubt service ps --no-trunc` shows it", "others must approve this: name a task by its whole id")
		}
	case *controlpb.BindRequest:
		return exactPrincipal(r.GetPrincipal())
	case *controlpb.UnbindRequest:
		return exactPrincipal(r.GetPrincipal())
	}
	return nil
}

func exactPrincipal(text string) error {
	if p, err := ParsePrincipal(text); err == nil && p.Kind != pkipb.Principal_KIND_PERSON && !ident.Valid(p.Node) {
		return inexactNode()
	}
	return nil
}

func inexactNode() error {
	return apierr.Invalid("`redoubt node inspect` shows it", "others must approve this: name the node by its whole id")
}

// RequestOf is what an approval is for.
func RequestOf(a *pkipb.Approval) (proto.Message, error) {
	m, err := approvable.Decode(a.GetMethod(), a.GetRequest())
	if err != nil {
		return nil, apierr.State("the request must be made again", "what approval %s is for cannot be read by this version: %v", a.GetId(), err)
	}
	return m, nil
}

// actsOf is what the request of an approval does.
func actsOf(a *pkipb.Approval) ([]authz.Act, error) {
	request, err := RequestOf(a)
	if err != nil {
		return nil, err
	}
	return authz.ActsOf(a.GetMethod(), request)
}

// Ended reports whether nothing can come of an approval any more.
func Ended(a *pkipb.Approval, now time.Time) bool {
	return a.GetUsedAt() != 0 || Denied(a) || now.Unix() >= a.GetExpiresAt()
}

// Denied reports whether somebody denied it.
func Denied(a *pkipb.Approval) bool {
	return slices.ContainsFunc(a.GetVotes(), (*pkipb.Vote).GetDenied)
}

// Standing is how far an approval is by what holds now: who gave it must still be there,
// and still be permitted to.
type Standing struct {
	Need Need
	// Progress says how many there are of how many.
	Progress string
	Enough   bool
	// Counts are the votes that count.
	Counts []bool
}

// Standing looks at an approval.
func (e *Engine) Standing(r raftstore.Reader, a *pkipb.Approval) (out Standing, _ error) {
	acts, err := actsOf(a)
	if err != nil {
		return out, err
	}
	requester := PrincipalOf(a.GetRequester())
	if out.Need, err = e.needOfActs(r, requester, acts); err != nil {
		return out, err
	}
	var t tally
	t.add(requester)
	for _, v := range a.GetVotes() {
		err := e.mayGrant(r, PrincipalOf(v.GetBy()), acts)
		if out.Counts = append(out.Counts, err == nil && !v.GetDenied()); err == nil && !v.GetDenied() {
			t.add(PrincipalOf(v.GetBy()))
		}
	}
	out.Progress, out.Enough = t.of(out.Need), t.enough(out.Need)
	return out, nil
}

// needOfActs is what all acts of a principal ask for together.
func (e *Engine) needOfActs(r raftstore.Reader, p Principal, acts []authz.Act) (out Need, _ error) {
	for _, act := range acts {
		on := ResourceOf(r, act)
		d, err := e.Decide(r, p, act.Verb, on)
		if err != nil {
			return out, err
		}
		if !d.Allowed {
			return out, refusal(r, p, act.Verb, on, d)
		}
		out = out.and(d.Need)
	}
	return out, nil
}

// mayGrant returns a refusal unless p is there, may both approve and do all of acts, and
// is somebody who counts.
func (e *Engine) mayGrant(r raftstore.Reader, p Principal, acts []authz.Act) error {
	if !p.counts() {
		return apierr.Denied("a person must, or root of another manager", "%s is a user of a machine, and may be anybody who approves elsewhere", Named(r, p))
	}
	if !exists(r, p) {
		return apierr.Denied("", "there is no %s any more", Named(r, p))
	}
	_, err := e.needOfActs(r, p, append([]authz.Act{{Verb: approvalGrant}}, acts...))
	return err
}

// DecideApproval has p grant or deny an approval; hash is of what p was shown.
func (e *Engine) DecideApproval(tx *raftstore.Tx, p Principal, id string, grant bool, hash []byte) (*pkipb.Approval, error) {
	a, ok := pkistore.Approvals.Get(tx, id)
	switch {
	case !ok:
		return nil, apierr.NotFound("`redoubt approval ls` lists them", "there is no approval %q", ident.Clip(id))
	case a.GetUsedAt() != 0:
		return nil, apierr.State("", "approval %s has taken effect already", id)
	case Denied(a):
		return nil, apierr.State("", "approval %s was denied already", id)
	case tx.Now().Unix() >= a.GetExpiresAt():
		return nil, apierr.State("the request must be made again", "approval %s has expired", id)
	case (grant || len(hash) > 0) && !slices.Equal(hash, a.GetHash()):
		return nil, apierr.State("look at it again: `redoubt approval show "+id+"`", "what was looked at is not what approval %s is for", id)
	}
	requester := PrincipalOf(a.GetRequester())
	var err error
	switch {
	case grant:
		err = e.checkGrant(tx, a, p, requester)
	case p.party() != requester.party():
		err = e.mayGrantThis(tx, a, p)
	}
	if err != nil {
		return nil, err
	}
	a = proto.CloneOf(a)
	a.Votes = append(a.Votes, &pkipb.Vote{By: p.Record(), Denied: !grant, At: tx.Now().Unix()})
	return a, pkistore.Approvals.Put(tx, a)
}

func (e *Engine) checkGrant(tx *raftstore.Tx, a *pkipb.Approval, p, requester Principal) error {
	if p.party() == requester.party() {
		return apierr.Denied("somebody else must", "%s asked for it, and %s cannot approve it", Named(tx, requester), Named(tx, p))
	}
	for _, v := range a.GetVotes() {
		if by := PrincipalOf(v.GetBy()); by.party() == p.party() {
			return apierr.Exists("somebody else must be for it, too", "%s has approved it already, and counts once", Named(tx, by))
		}
	}
	s, err := e.Standing(tx, a)
	if err != nil {
		return err
	}
	if p.Kind != pkipb.Principal_KIND_PERSON && s.Need.Parties == 0 && !s.Need.None() {
		return apierr.Denied("", "%s is nobody in particular, and %s counts people", Named(tx, p), strings.Join(s.Need.By, "; "))
	}
	return e.mayGrantThis(tx, a, p)
}

// mayGrantThis is mayGrant for what an approval is for. Who may not grant it may not end
// it either, but where it is their own.
func (e *Engine) mayGrantThis(r raftstore.Reader, a *pkipb.Approval, p Principal) error {
	acts, err := actsOf(a)
	if err != nil {
		return err
	}
	return e.mayGrant(r, p, acts)
}

// ResolveApproval finds one by its id, or the beginning of it.
func ResolveApproval(r raftstore.Reader, ref string) (*pkipb.Approval, error) {
	if a, ok := pkistore.Approvals.Get(r, ref); ok {
		return a, nil
	}
	return resolve.Only("approval", ref, resolve.ByPrefix(pkistore.Approvals, r, ref))
}
