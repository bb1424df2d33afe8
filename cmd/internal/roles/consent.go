package roles

import (
	"bytes"
	"cmp"
	"context"
	"encoding/hex"
	"errors"
	"slices"
	"strings"

	"google.golang.org/protobuf/proto"

	"github.com/redoubt-cluster/redoubt/cmd/internal/approvable"
	"github.com/redoubt-cluster/redoubt/cmd/internal/control/apierr"
	"github.com/redoubt-cluster/redoubt/internal/ident"
	"github.com/redoubt-cluster/redoubt/pki/authz"
	"github.com/redoubt-cluster/redoubt/pki/pkipb"
	pkistore "github.com/redoubt-cluster/redoubt/pki/store"
	"github.com/redoubt-cluster/redoubt/raftstore"
)

// Consent implements authz.Judge. A request that several people must be for is refused
// until they are, and its first refusal makes the approval that they give. After that
// the call's first transaction that changes anything uses the approval up: both happen,
// or neither.
func (e *Engine) Consent(ctx context.Context, id authz.Identity, method string, request proto.Message, acts []authz.Act) (context.Context, error) {
	ctx, err := e.consent(ctx, id, method, request, acts)
	if errors.Is(err, raftstore.ErrNotLeader) || errors.Is(err, raftstore.ErrClosed) {
		err = apierr.NoLeader()
	}
	if err != nil {
		return nil, apierr.FromError(err, ident.New()[:12])
	}
	return ctx, nil
}

func (e *Engine) consent(ctx context.Context, id authz.Identity, method string, request proto.Message, acts []authz.Act) (context.Context, error) {
	p, err := FromIdentity(id)
	if err != nil {
		return nil, apierr.New(apierr.ReasonDenied, "", "%v", err)
	}
	var need Need
	err = e.store.View(func(r *raftstore.ReadTx) error {
		s, err := e.Set(r)
		if err == nil && len(s.needs) > 0 {
			need, err = e.needOfActs(r, p, acts)
		}
		if err == nil && !need.None() {
			err = exact(r, request)
		}
		return err
	})
	if err != nil || need.None() {
		return ctx, err
	}
	encoded, err := encodeApprovable(request)
	if err != nil {
		return nil, err
	}
	a := &pkipb.Approval{Requester: p.Record(), Method: method, Request: encoded, Hash: approvable.Hash(method, encoded)}
	for _, act := range acts {
		a.Verbs = append(a.Verbs, act.Verb)
	}
	slices.Sort(a.Verbs)
	a.Verbs = slices.Compact(a.Verbs)
	if a, err = e.ask(ctx, method, request, a); err != nil {
		return nil, err
	}
	call := ident.New()
	return raftstore.WithCondition(authz.WithApproval(ctx, a.GetId()), func(tx *raftstore.Tx) (func(*raftstore.Tx) error, error) {
		return e.use(tx, a.GetId(), call)
	}), nil
}

// ask returns the approval of wanted that is granted, or a refusal that names the one
// that waits; there is one then.
func (e *Engine) ask(ctx context.Context, method string, request proto.Message, wanted *pkipb.Approval) (*pkipb.Approval, error) {
	var a *pkipb.Approval
	var s Standing
	ctx = e.records.Refusing(ctx, method, request, "others must approve it")
	err := e.store.Update(ctx, func(tx *raftstore.Tx) (err error) {
		a = open(tx, wanted)
		if a == nil {
			if a, err = add(tx, wanted); err != nil {
				return err
			}
		}
		s, err = e.Standing(tx, a)
		return err
	})
	if err != nil || s.Enough {
		return a, err
	}
	return nil, apierr.New(apierr.ReasonApproval, "have it looked at and approved with `redoubt approval grant "+a.GetId()+"`, then run the same command again",
		"others must approve this, as approval %s: %s so far, with you (%s)", a.GetId(), s.Progress, strings.Join(s.Need.By, "; "))
}

// open is the newest approval of the same request by the same principal of which
// something can come; nil: there is none.
func open(tx *raftstore.Tx, wanted *pkipb.Approval) (out *pkipb.Approval) {
	for a := range pkistore.Approvals.By(tx, "hash", hex.EncodeToString(wanted.GetHash())) {
		if bytes.Equal(a.GetHash(), wanted.GetHash()) && PrincipalOf(a.GetRequester()) == PrincipalOf(wanted.GetRequester()) &&
			!Ended(a, tx.Now()) && a.GetRequestedAt() >= out.GetRequestedAt() {
			out = a
		}
	}
	return out
}

// add writes an approval that waits, and forgets those of which nothing can come where
// they are old or there is no room.
func add(tx *raftstore.Tx, wanted *pkipb.Approval) (*pkipb.Approval, error) {
	now := tx.Now()
	var ended []*pkipb.Approval
	waiting := 0
	for a := range pkistore.Approvals.All(tx) {
		switch {
		case Ended(a, now):
			ended = append(ended, a)
		case PrincipalOf(a.GetRequester()) == PrincipalOf(wanted.GetRequester()):
			waiting++
		}
	}
	if waiting >= maxOpen {
		return nil, apierr.State("wait, or withdraw some with `redoubt approval deny`", "%d requests of yours wait to be approved: no more are allowed", waiting)
	}
	slices.SortFunc(ended, func(a, b *pkipb.Approval) int { return cmp.Compare(a.GetRequestedAt(), b.GetRequestedAt()) })
	full := pkistore.Approvals.Count(tx) - MaxApprovals + 1
	for i, a := range ended {
		if i < full || now.Unix() >= a.GetExpiresAt()+int64(approvalsKept.Seconds()) {
			if err := pkistore.Approvals.Delete(tx, a.GetId()); err != nil {
				return nil, err
			}
		}
	}
	if full > len(ended) {
		return nil, apierr.State("wait until some were decided", "%d requests wait to be approved: no more are allowed", MaxApprovals)
	}
	a := proto.CloneOf(wanted)
	a.Id, a.RequestedAt, a.ExpiresAt = ident.New(), now.Unix(), now.Add(ApprovalLife).Unix()
	return a, pkistore.Approvals.Put(tx, a)
}

// use is the condition of a call's transactions: its approval is good now, and is used
// by this call or by none yet.
func (e *Engine) use(tx *raftstore.Tx, id, call string) (func(*raftstore.Tx) error, error) {
	a, ok := pkistore.Approvals.Get(tx, id)
	switch {
	case ok && a.GetUsedAt() != 0 && a.GetUsedBy() == call:
		return nil, nil
	case !ok || Ended(a, tx.Now()):
		return nil, apierr.State("make the request again", "approval %s was used, denied, or has expired meanwhile", id)
	}
	s, err := e.Standing(tx, a)
	if err != nil {
		return nil, err
	}
	if !s.Enough {
		return nil, apierr.State("", "approval %s is not enough any more: %s", id, s.Progress)
	}
	return func(tx *raftstore.Tx) error {
		used := proto.CloneOf(a)
		used.UsedAt, used.UsedBy = tx.Now().Unix(), call
		return pkistore.Approvals.Put(tx, used)
	}, nil
}
