package roles

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"time"

	"github.com/redoubt-cluster/redoubt/cmd/internal/control/apierr"
	"github.com/redoubt-cluster/redoubt/pki/audit"
	"github.com/redoubt-cluster/redoubt/pki/authz"
	"github.com/redoubt-cluster/redoubt/pki/pkipb"
	"github.com/redoubt-cluster/redoubt/pki/profile/profilepb"
	pkistore "github.com/redoubt-cluster/redoubt/pki/store"
	"github.com/redoubt-cluster/redoubt/raftstore"
)

// Store is the part of *raftstore.Store that deciding needs.
type Store interface {
	View(func(*raftstore.ReadTx) error) error
	Update(ctx context.Context, fn func(*raftstore.Tx) error) error
	Watch(snapshot func(*raftstore.ReadTx) error, tables ...raftstore.Registered) (*raftstore.Watch, error)
}

// Engine decides by what is in the store at each call. It is an authz.Judge, and
// safe for concurrent use.
type Engine struct {
	store   Store
	records *audit.Log
	cached  atomic.Pointer[Set]
}

// New returns an Engine, or an error where the built-in roles and the verbs do not
// belong together. What must wait for others is recorded as records has it.
func New(store Store, records *audit.Log) (*Engine, error) {
	if _, err := builtins(); err != nil {
		return nil, err
	}
	return &Engine{store: store, records: records}, nil
}

// Set returns what is in force for r.
func (e *Engine) Set(r raftstore.Reader) (*Set, error) {
	if s := e.cached.Load(); s != nil && s.of == versionOf(r) {
		return s, nil
	}
	s, err := Compile(r)
	if err == nil {
		e.cached.Store(s)
	}
	return s, err
}

// Decide answers for one principal, one verb and one resource.
func (e *Engine) Decide(r raftstore.Reader, p Principal, verb string, on Resource) (Decision, error) {
	s, err := e.Set(r)
	if err != nil {
		return Decision{}, err
	}
	if why := withheld(r, p, verb); why != "" {
		return Decision{By: []string{why}, Roles: s.rolesOf(p, on, RootIsAdmin(r, s))}, nil
	}
	return s.decide(p, verb, on, RootIsAdmin(r, s), besides(r, p)...), nil
}

// RootIsAdmin reports whether managers' local root is security-admin as well: while
// there is no person who is and can call. Who was invited again and has not come, or
// let a certificate end, cannot.
func RootIsAdmin(r raftstore.Reader, s *Set) bool {
	for _, name := range s.admins {
		if personCalls(r, name) {
			return false
		}
	}
	return true
}

// Judge implements authz.Judge.
func (e *Engine) Judge(_ context.Context, id authz.Identity, acts []authz.Act) error {
	p, err := FromIdentity(id)
	if err != nil {
		return apierr.New(apierr.ReasonDenied, "", "%v", err)
	}
	return e.store.View(func(r *raftstore.ReadTx) error {
		for _, a := range acts {
			on := ResourceOf(r, a)
			d, err := e.Decide(r, p, a.Verb, on)
			if err != nil {
				return err
			}
			if !d.Allowed {
				return refusal(r, p, a.Verb, on, d)
			}
		}
		return nil
	})
}

func refusal(r raftstore.Reader, p Principal, verb string, on Resource, d Decision) error {
	return apierr.New(apierr.ReasonDenied, "", "%s may not %s on %s: %s", Named(r, p), verb, on, d.Why())
}

// Named is the principal in words, with the name of its node.
func Named(r raftstore.Reader, p Principal) string {
	n, _ := pkistore.Nodes.Get(r, p.Node)
	return p.Text(n.GetName())
}

// Changes implements authz.Judge: it calls changed whenever what Judge says may be
// another, until ctx ends or the store does.
func (e *Engine) Changes(ctx context.Context, changed func()) error {
	for {
		err := e.follow(ctx, changed)
		switch {
		case ctx.Err() != nil:
			return ctx.Err()
		case !errors.Is(err, raftstore.ErrLagged):
			return fmt.Errorf("watching roles and policies: %w", err)
		}
	}
}

func (e *Engine) follow(ctx context.Context, changed func()) error {
	w, err := e.store.Watch(func(*raftstore.ReadTx) error { return nil }, pkistore.AccessState, pkistore.People, pkistore.BreakGlasses)
	if err != nil {
		return err
	}
	defer w.Close()
	for {
		changed()
		if err := e.next(ctx, w); err != nil {
			return err
		}
	}
}

// next waits for a change, or until a break-glass is over.
func (e *Engine) next(ctx context.Context, w *raftstore.Watch) error {
	until := time.Duration(0)
	if err := e.store.View(func(r *raftstore.ReadTx) error {
		for b := range pkistore.BreakGlasses.All(r) {
			if left := time.Unix(0, b.GetUntil()).Sub(now(r)); left > 0 && (until == 0 || left < until) {
				until = left
			}
		}
		return nil
	}); err != nil {
		return err
	}
	waits, cancel := ctx, context.CancelFunc(func() {})
	if until > 0 {
		waits, cancel = context.WithTimeout(ctx, until)
	}
	defer cancel()
	_, err := w.Next(waits)
	if err != nil && ctx.Err() == nil && errors.Is(waits.Err(), context.DeadlineExceeded) && errors.Is(err, context.DeadlineExceeded) {
		return nil
	}
	return err
}

// personCalls reports whether that person can call now: has a certificate that has
// not ended, and was not revoked.
func personCalls(r raftstore.Reader, name string) bool {
	p, ok := pkistore.People.Get(r, name)
	return ok && !p.GetDenied() && len(p.GetLeafSpki()) > 0 && time.Now().Unix() < p.GetLeafNotAfter()
}

// managerExists reports whether a manager of that id is a member.
func managerExists(r raftstore.Reader, id string) bool {
	n, ok := pkistore.Nodes.Get(r, id)
	return ok && !n.GetDenied() && n.GetRole() == profilepb.Role_ROLE_MANAGER
}

// exists reports whether there is such a principal, be it one who was only invited.
func exists(r raftstore.Reader, p Principal) bool {
	if p.Kind == pkipb.Principal_KIND_PERSON {
		rec, ok := pkistore.People.Get(r, p.Name)
		return ok && !rec.GetDenied()
	}
	return managerExists(r, p.Node)
}
