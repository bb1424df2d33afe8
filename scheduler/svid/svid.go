// Package svid is a node's side of workloads' identities: it holds the key and
// the certificate of each of its tasks (X.509-SVIDs), gets tokens for them
// (JWT-SVIDs), and answers the SPIFFE Workload API on each task's own socket.
//
// Keys are born here and go to nobody but the task. Certificates are asked of the
// leader in batches that the node's leaf signs, and are renewed between half and
// four fifths of their life, so managers may be away for a while; what expired is
// not handed out. An answer is believed as far as it ends in this node's roots: the
// certificate must be for the key and the identity that were asked for.
//
// Who calls is known from the connection alone. rund listens on the sockets, looks
// which container the process at the other end is in, and hands over what it
// accepted with the task's id; this package never learns of a caller that rund did
// not know. An identity that was revoked is forgotten at once, key and all, and its
// streams end.
//
//	h := svid.New(config)
//	go h.Run(ctx)                  // asks and renews
//	go h.Serve(ctx, dial)          // answers callers
//	h.Set(map[string]svid.Want{…}) // all tasks, whenever they change
package svid

import (
	"context"
	"crypto/ecdsa"
	"crypto/x509"
	"errors"
	"log/slog"
	"slices"
	"sync"
	"time"

	"github.com/redoubt-cluster/redoubt/pki/profile/profilepb"
	"github.com/redoubt-cluster/redoubt/scheduler/schedulerpb"
)

// Config binds a Holder. All but Report, Files and Logger are required.
type Config struct {
	ClusterID string
	// Say signs with the node's leaf, and returns that and its issuers.
	Say func(message []byte) (chain [][]byte, signature []byte, err error)
	// Roots are those that this node trusts now.
	Roots func() []*x509.Certificate
	// Issue asks the leader; Report tells it what tasks hold.
	Issue  func(context.Context, *schedulerpb.IssueRequest) (*schedulerpb.IssueResponse, error)
	Report func(context.Context, *schedulerpb.IdentityReport) error
	// Denied reports whether what was issued then for that identity counts for
	// nothing; DenialsChanged is closed when it may answer otherwise.
	Denied         func(identity string, issued time.Time) bool
	DenialsChanged func() <-chan struct{}
	// MaxLife bounds what is asked for; 0: services say.
	MaxLife time.Duration
	// Files writes what a task reads from files, PEM, all at once.
	Files  func(ctx context.Context, task string, certificate, key, bundle []byte) error
	Logger *slog.Logger
}

// Want is a task that is to have an identity.
type Want struct {
	Identity string
	Life     time.Duration
	// Files says that it reads files as well.
	Files bool
}

// Holder holds what a node's tasks are. It is safe for concurrent use.
type Holder struct {
	c    Config
	kick chan struct{} // capacity 1: there is something to do

	mu     sync.Mutex // guards the following
	tasks  map[string]*entry
	bundle *profilepb.WorkloadBundle // nil: not heard yet; immutable
	roots  []*x509.Certificate       // as they were handed out last
	news   chan struct{}             // closed when bundle or roots change
	asked  []*tokenCall              // for the next batch
	report bool                      // there is something to report
	stale  bool                      // bundle may be of a keyset that is gone
}

// entry is one task's. The Holder's mu guards it.
type entry struct {
	want    Want
	key     *ecdsa.PrivateKey // of cert; nil: there is none
	leaf    *x509.Certificate
	chain   [][]byte                       // leaf first, without the root
	given   []*schedulerpb.HeldCertificate // that have not ended, revoked or not
	issued  time.Time
	renewAt time.Time
	retry   time.Duration
	why     string // there is no certificate, or no new one
	filed   bool   // cert is in files
	fileAt  time.Time
	refile  time.Duration
	denied  bool
	changed chan struct{} // closed when something of the above changes

	tokens  map[string]*token
	refill  bucket
	streams int
	conns   int
	calls   bucket
}

// New returns a Holder of nothing.
func New(c Config) *Holder {
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	return &Holder{c: c, kick: make(chan struct{}, 1), tasks: map[string]*entry{}, news: make(chan struct{})}
}

// Set says which tasks are to have identities: all of them. What others held is
// forgotten.
func (h *Holder) Set(want map[string]Want) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for id, e := range h.tasks {
		if w, ok := want[id]; !ok || w.Identity != e.want.Identity {
			e.forget()
			delete(h.tasks, id)
			h.report = true
		} else {
			e.want = w
		}
	}
	for id, w := range want {
		if h.tasks[id] == nil {
			h.tasks[id] = &entry{want: w, changed: make(chan struct{}), tokens: map[string]*token{}, denied: h.c.Denied(w.Identity, time.Now())}
		}
	}
	h.wake()
}

// Connected says that a session with a manager began: who leads now knows nothing
// of what is held here.
func (h *Holder) Connected() {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.report = true
	for _, e := range h.tasks {
		e.retry = 0
		if e.key == nil {
			e.renewAt = time.Time{}
		}
	}
	h.wake()
}

// Rotated says that the managers have other keys: what tokens are verified with is
// asked for at once, as the former key may be in other hands.
func (h *Holder) Rotated() {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.stale = len(h.tasks) > 0
	h.wake()
}

// rundCame says that rund was started, or redoubtd: it may have lost files, and
// writes none that it has.
func (h *Holder) rundCame() {
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, e := range h.tasks {
		e.filed, e.fileAt, e.refile = false, time.Time{}, 0
	}
	h.wake()
}

func (h *Holder) wake() {
	select {
	case h.kick <- struct{}{}:
	default:
	}
}

// tell wakes who waits for the entry. The Holder's mu is held.
func (e *entry) tell() {
	close(e.changed)
	e.changed = make(chan struct{})
}

// forget drops what a task holds. The Holder's mu is held.
func (e *entry) forget() {
	e.key, e.leaf, e.chain, e.filed = nil, nil, nil, false
	clear(e.tokens)
	e.tell()
}

// good reports whether there is a certificate that may be handed out. It asks for
// denials itself: heed may not have come to them yet. The Holder's mu is held.
func (h *Holder) good(e *entry, now time.Time) bool {
	return e.key != nil && !e.denied && now.Before(e.leaf.NotAfter) && !h.c.Denied(e.want.Identity, e.issued)
}

// life is what is asked for.
func (h *Holder) life(e *entry) time.Duration {
	if h.c.MaxLife > 0 {
		return min(e.want.Life, h.c.MaxLife)
	}
	return e.want.Life
}

var errNoIdentity = errors.New("this task has no identity: its service wants none, it was revoked, or the task is ending")

// heed looks at denials anew.
func (h *Holder) heed() {
	h.mu.Lock()
	defer h.mu.Unlock()
	now := time.Now()
	for id, e := range h.tasks {
		denied := h.c.Denied(e.want.Identity, now)
		if denied || e.key != nil && h.c.Denied(e.want.Identity, e.issued) {
			if e.key != nil || denied != e.denied {
				h.c.Logger.Warn("a task's identity was revoked", "task", id, "identity", e.want.Identity)
			}
			e.denied = denied
			e.forget()
			e.renewAt, e.why = time.Time{}, ""
			h.report = true
		} else if e.denied {
			e.denied, e.renewAt, e.retry = false, time.Time{}, 0
			e.tell()
		}
	}
}

// held is what there is to report.
func (h *Holder) held() *schedulerpb.IdentityReport {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.report = false
	r, now := &schedulerpb.IdentityReport{}, time.Now()
	for id, e := range h.tasks {
		e.given = slices.DeleteFunc(e.given, func(c *schedulerpb.HeldCertificate) bool { return c.GetExpiresAt() <= now.Unix() })
		x := &schedulerpb.HeldIdentity{Certificates: slices.Clone(e.given), TaskId: id, Identity: e.want.Identity, Streams: uint32(e.streams), Files: e.filed, Error: e.why}
		if h.good(e, now) {
			x.Serial, x.IssuedAt, x.ExpiresAt = e.leaf.SerialNumber.Bytes(), e.issued.Unix(), e.leaf.NotAfter.Unix()
		}
		for _, t := range e.tokens {
			if now.Before(t.until) {
				x.Tokens++
			}
		}
		r.Held = append(r.Held, x)
	}
	return r
}
