package pki

import (
	"context"
	"crypto/sha256"
	"encoding/base32"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"github.com/redoubt-cluster/redoubt/internal/ident"
	"github.com/redoubt-cluster/redoubt/internal/lp"
	"github.com/redoubt-cluster/redoubt/pki/pkipb"
	"github.com/redoubt-cluster/redoubt/pki/profile/profilepb"
	"github.com/redoubt-cluster/redoubt/pki/store"
	"github.com/redoubt-cluster/redoubt/raftstore"
)

// decisionLevel is the store level that knows of what operators decided.
var decisionLevel = raftstore.FieldSince(&pkipb.Token{}, "decision")

// PendingNode is a machine that proved all but that an operator wants it.
type PendingNode struct {
	// ID is the one it will have.
	ID, Name string
	Role     profilepb.Role
	TokenID  string
	Source   string
	// Fingerprint is of its requests, and shown at that machine too.
	Fingerprint string
	// TPMEK is the hash of the endorsement key that it proved, or nil.
	TPMEK []byte
	// Until is when it is forgotten: it has not asked for a while then.
	Until time.Time

	isDecided, approved bool
}

// Pending are the machines that wait for an operator. They are the leader's to
// know: they ask again and again, so that the next leader hears of them, and is
// asked for its own approval. Safe for concurrent use.
type Pending struct {
	mu sync.Mutex
	of map[string]*PendingNode // guarded by mu; by PendingNode.key
}

// JoinFingerprint is what a person compares: of the requests of one machine, as long
// as nobody can find other requests that have the same.
func JoinFingerprint(csr, bootCSR []byte) string {
	sum := sha256.Sum256(lp.Append(lp.Append([]byte("redoubt join fingerprint v1\x00"), csr), bootCSR))
	text := base32.StdEncoding.EncodeToString(sum[:10])
	return strings.Join([]string{text[:4], text[4:8], text[8:12], text[12:]}, "-")
}

var (
	// ErrNotPending says that nobody waits by that name, or several do.
	ErrNotPending = errors.New("no such machine waits: see `redoubt node pending`")
	errDenied     = status.Error(codes.PermissionDenied, "an operator denied this machine")
	errManyWait   = errors.New("too many machines wait for an operator")
)

// ask notes that a machine waits, and returns what is known of it and whether it is
// the first that is heard of it.
func (p *Pending) ask(n PendingNode, now time.Time) (_ PendingNode, first bool, _ error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.forget(now)
	if known := p.of[n.key()]; known != nil {
		known.Until = now.Add(pendingLife)
		return *known, false, nil
	}
	if len(p.of) >= maxPending {
		return n, false, errManyWait
	}
	if p.of == nil {
		p.of = map[string]*PendingNode{}
	}
	n.Until = now.Add(pendingLife)
	p.of[n.key()] = &n
	return n, true, nil
}

// key is of one machine with one token.
func (n *PendingNode) key() string { return n.Fingerprint + " " + n.TokenID + " " + n.Name }

// decided is the id that an approved machine is to have, or the refusal of one that
// was denied; "": nothing was decided.
func (p *Pending) decided(n PendingNode, now time.Time) (id string, _ error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.forget(now)
	switch known := p.of[n.key()]; {
	case known == nil || !known.isDecided:
		return "", nil
	case !known.approved:
		return "", errDenied
	default:
		return known.ID, nil
	}
}

// done forgets a machine that has joined.
func (p *Pending) done(n PendingNode) {
	p.mu.Lock()
	defer p.mu.Unlock()
	delete(p.of, n.key())
}

// forget drops those that have not asked for a while; the caller holds mu.
func (p *Pending) forget(now time.Time) {
	for f, n := range p.of {
		if now.After(n.Until) {
			delete(p.of, f)
		}
	}
}

// List returns those that wait, by name.
func (p *Pending) List(now time.Time) (out []PendingNode) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.forget(now)
	for _, n := range p.of {
		if !n.isDecided {
			out = append(out, *n)
		}
	}
	slices.SortFunc(out, func(a, b PendingNode) int { return strings.Compare(a.Name+a.ID, b.Name+b.ID) })
	return out
}

// Decide approves or denies the machine of that fingerprint, id, or unique prefix of
// an id. The decision is committed with the token that the machine showed, which a
// denial revokes, as it is in the wrong hands. Only then does the machine hear of it,
// when it asks next: what fails in between lets nobody in, and can be asked again.
func (p *Pending) Decide(ctx context.Context, s Store, ref string, approve bool) (PendingNode, error) {
	n, err := p.find(ref, time.Now())
	if err != nil {
		return n, err
	}
	err = s.Update(ctx, func(tx *raftstore.Tx) error {
		t, ok := store.Tokens.Get(tx, n.TokenID)
		if !ok {
			return nil // it lets nobody in
		}
		t = proto.CloneOf(t)
		t.Revoked = t.GetRevoked() || !approve
		if tx.Level() >= decisionLevel {
			t.Decision = &pkipb.JoinDecision{NodeId: n.ID, NodeName: n.Name, Role: n.Role, Fingerprint: n.Fingerprint, Source: n.Source, Approved: approve}
		}
		return store.Tokens.Put(tx, t)
	})
	if err != nil {
		return n, err
	}
	return n, p.decide(n.key(), approve, time.Now())
}

// find returns the one that waits by that name.
func (p *Pending) find(ref string, now time.Time) (PendingNode, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.forget(now)
	var found *PendingNode
	for _, n := range p.of {
		if n.isDecided || n.Fingerprint != strings.ToUpper(ref) && (len(ref) < ident.MinPrefix || !strings.HasPrefix(n.ID, ref)) {
			continue
		}
		if found != nil {
			return PendingNode{}, fmt.Errorf("%w (%q is the beginning of several)", ErrNotPending, ref)
		}
		found = n
	}
	if found == nil {
		return PendingNode{}, ErrNotPending
	}
	return *found, nil
}

// decide has the machine hear of it. A denial stands, whoever approved meanwhile.
func (p *Pending) decide(key string, approve bool, now time.Time) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	n := p.of[key]
	if n == nil || n.isDecided && approve && !n.approved {
		return ErrNotPending
	}
	n.isDecided, n.approved, n.Until = true, approve, now.Add(decisionLife)
	return nil
}
