package pki

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"maps"
	"sync"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/redoubt-cluster/redoubt/internal/lp"
	"github.com/redoubt-cluster/redoubt/pki/pkipb"
	"github.com/redoubt-cluster/redoubt/pki/profile"
	"github.com/redoubt-cluster/redoubt/pki/store"
	"github.com/redoubt-cluster/redoubt/raftstore"
)

// IdentityHash stands for a SPIFFE id where nodes are told of denials: who knows
// the id recognises it, and nobody learns of others.
type IdentityHash [sha256.Size]byte

const identityHashLabel = "redoubt denied identity v1\x00"

// HashIdentity returns the hash of a SPIFFE id.
func HashIdentity(id string) IdentityHash {
	return sha256.Sum256(lp.Append([]byte(identityHashLabel), []byte(id)))
}

// Denials are the workload identities that count for nothing now, as this node
// knows them: from its own store on a manager, from its session on a worker. The
// zero value denies nothing. Safe for concurrent use.
//
//	changed := d.Changed() // before looking
//	if d.Denied(id, cert.NotBefore) { … }
//	<-changed
type Denials struct {
	mu      sync.Mutex // guards the rest
	before  map[IdentityHash]int64
	changed chan struct{} // closed with the next change; nil: nobody asked
}

// Denied reports whether what was issued then for that SPIFFE id counts for
// nothing. For what is to be issued now, issued is now.
func (d *Denials) Denied(id string, issued time.Time) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	before, ok := d.before[HashIdentity(id)]
	return ok && (before == 0 || issued.Unix() < before)
}

// Changed is closed when Denied may answer otherwise than now.
func (d *Denials) Changed() <-chan struct{} {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.changed == nil {
		d.changed = make(chan struct{})
	}
	return d.changed
}

// Set replaces all of them; before says up to when what was issued is denied, in
// Unix seconds, 0: for ever.
func (d *Denials) Set(before map[IdentityHash]int64) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if maps.Equal(d.before, before) {
		return
	}
	d.before = maps.Clone(before)
	if d.changed != nil {
		close(d.changed)
		d.changed = nil
	}
}

// DenialsOf reads them from the store.
func DenialsOf(r raftstore.Reader) map[IdentityHash]int64 {
	out := map[IdentityHash]int64{}
	for rec := range store.DeniedIdentities.All(r) {
		out[HashIdentity(rec.GetId())] = rec.GetAllowedAt()
	}
	return out
}

// IdentityDenied reports, within a transaction, whether nothing may be issued for
// that SPIFFE id now.
func IdentityDenied(r raftstore.Reader, id string) bool {
	rec, ok := store.DeniedIdentities.Get(r, id)
	return ok && rec.GetAllowedAt() == 0
}

// FollowDenials calls told with the denials of the store, first at once and then
// with each change, until ctx ends or the store does.
func FollowDenials(ctx context.Context, s store.Store, told func(map[IdentityHash]int64)) error {
	for {
		err := followDenials(ctx, s, told)
		switch {
		case ctx.Err() != nil:
			return ctx.Err()
		case !errors.Is(err, raftstore.ErrLagged):
			return fmt.Errorf("watching denied identities: %w", err)
		}
	}
}

func followDenials(ctx context.Context, s store.Store, told func(map[IdentityHash]int64)) error {
	w, err := s.Watch(func(r *raftstore.ReadTx) error {
		told(DenialsOf(r))
		return nil
	}, store.DeniedIdentities)
	if err != nil {
		return err
	}
	defer w.Close()
	for {
		if _, err := w.Next(ctx); err != nil {
			return err
		}
		if err := s.View(func(r *raftstore.ReadTx) error {
			told(DenialsOf(r))
			return nil
		}); err != nil {
			return err
		}
	}
}

var (
	// ErrManyDenied says that no more can be denied.
	ErrManyDenied = fmt.Errorf("more than %d workload identities would be revoked: allow some again", maxDeniedIdentities)
	// ErrNotDenied says that there is nothing to take back.
	ErrNotDenied = errors.New("that identity is not revoked")
)

// DenyIdentity revokes a workload identity. already: it was.
func DenyIdentity(tx *raftstore.Tx, id string) (rec *pkipb.DeniedIdentity, already bool, err error) {
	if _, _, _, err := profile.ParseServiceURI(id); err != nil {
		return nil, false, err
	}
	old, ok := store.DeniedIdentities.Get(tx, id)
	if ok && old.GetAllowedAt() == 0 {
		return old, true, nil
	}
	n := 0
	for range store.DeniedIdentities.All(tx) {
		n++
	}
	if !ok && n >= maxDeniedIdentities {
		return nil, false, ErrManyDenied
	}
	rec = &pkipb.DeniedIdentity{Meta: old.GetMeta(), Id: id, DeniedAt: tx.Now().Unix(), Certificates: old.GetCertificates()}
	return rec, false, store.DeniedIdentities.Put(tx, rec)
}

// AllowIdentity takes a revocation back: certificates are issued again, and those
// of before count for nothing still.
func AllowIdentity(tx *raftstore.Tx, id string) (*pkipb.DeniedIdentity, error) {
	rec, ok := store.DeniedIdentities.Get(tx, id)
	if !ok || rec.GetAllowedAt() != 0 {
		return nil, ErrNotDenied
	}
	rec = proto.CloneOf(rec)
	rec.AllowedAt = tx.Now().Unix()
	return rec, store.DeniedIdentities.Put(tx, rec)
}

// ForgetAllowed deletes the records of identities that were allowed again so long
// ago that nothing of before can be good any more, and says when the next can go;
// zero: there is none.
func ForgetAllowed(tx *raftstore.Tx) (next time.Time, err error) {
	var gone []string
	for rec := range store.DeniedIdentities.All(tx) {
		switch end := allowedEnd(rec); {
		case end.IsZero():
		case !tx.Now().Before(end):
			gone = append(gone, rec.GetId())
		case next.IsZero() || end.Before(next):
			next = end
		}
	}
	for _, id := range gone {
		if err := store.DeniedIdentities.Delete(tx, id); err != nil {
			return next, err
		}
	}
	return next, nil
}

func allowedEnd(rec *pkipb.DeniedIdentity) time.Time {
	if rec.GetAllowedAt() == 0 {
		return time.Time{}
	}
	return time.Unix(rec.GetAllowedAt(), 0).Add(LongestSVID)
}
