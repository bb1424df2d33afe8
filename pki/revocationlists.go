package pki

import (
	"bytes"
	"cmp"
	"context"
	"crypto/sha256"
	"crypto/x509"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/redoubt-cluster/redoubt/internal/lp"
	"github.com/redoubt-cluster/redoubt/pki/pkipb"
	"github.com/redoubt-cluster/redoubt/pki/store"
	"github.com/redoubt-cluster/redoubt/raftstore"
)

// Revoked is a certificate on a revocation list.
type Revoked struct {
	Serial []byte
	At     int64 // Unix seconds
}

// ListSigner has keyd sign the revocation list of the CA whose certificate has
// that SHA-256, and say which is the one of workloads.
type ListSigner interface {
	// WorkloadCA is the certificate of the CA that issues workloads' certificates
	// now; nil: there is none.
	WorkloadCA(ctx context.Context) ([]byte, error)
	SignCRL(ctx context.Context, ca []byte, revoked []Revoked, number uint64) (crl []byte, nextUpdate time.Time, err error)
}

// WatchedStore is the part of *raftstore.Store that revocation lists need.
type WatchedStore interface {
	Store
	store.Store
}

// ListsConfig is what RunRevocationLists needs; every field is required.
type ListsConfig struct {
	Store  WatchedStore
	Signer ListSigner
	Logger *slog.Logger
}

// A revocationList is what should stand on the list of one CA.
type revocationList struct {
	ca       []byte // SHA-256 of its certificate
	workload bool
	revoked  []Revoked
}

func (l revocationList) id() string { return hex.EncodeToString(l.ca) }

// content tells lists apart by what is on them.
func (l revocationList) content() []byte {
	var b []byte
	for _, r := range l.revoked {
		b = binary.BigEndian.AppendUint64(lp.Append(b, r.Serial), uint64(r.At))
	}
	sum := sha256.Sum256(b)
	return sum[:]
}

// names reports whether that list names all that this one should. One that has more
// is as good: certificates end.
func (l revocationList) names(crl []byte) bool {
	list, err := x509.ParseRevocationList(crl)
	if err != nil {
		return false
	}
	listed := make(map[string]bool, len(list.RevokedCertificateEntries))
	for _, e := range list.RevokedCertificateEntries {
		listed[string(e.SerialNumber.Bytes())] = true
	}
	return !slices.ContainsFunc(l.revoked, func(r Revoked) bool { return !listed[string(r.Serial)] })
}

// revocationLists are those of the CAs in force. An issuing CA lists the
// certificates of nodes that were removed; those of workloads, of which the SHA-256 is given,
// what was issued for denied identities and to such nodes; a root lists the CAs of nodes and
// of workloads of which nobody signs a list any more and something is to be refused (revokeIssuers).
func revocationLists(r raftstore.Reader, workload [][]byte, now time.Time) ([]revocationList, error) {
	c, err := store.GetCluster(r)
	if err != nil {
		return nil, err
	}
	of := map[string][]Revoked{}
	for n := range store.Nodes.All(r) {
		if !n.GetDenied() {
			continue
		}
		for _, cert := range n.GetCertificates() {
			if cert.GetNotAfter() > now.Unix() {
				of[string(cert.GetIssuer())] = append(of[string(cert.GetIssuer())], Revoked{cert.GetSerial(), n.GetDeniedAt()})
			}
		}
	}
	// Which CA issued those may be a node's word alone: no list but a workload CA's reads it.
	ofWorkloads, claimed := map[string][]Revoked{}, map[string][]Revoked{}
	workloadsListed(r, func(cert *pkipb.IssuedCertificate, at int64) {
		to := ofWorkloads
		if cert.GetClaimed() {
			to = claimed
		}
		if cert.GetNotAfter() > now.Unix() {
			to[string(cert.GetIssuer())] = append(to[string(cert.GetIssuer())], Revoked{cert.GetSerial(), at})
		}
	})
	for _, ca := range c.GetRevokedIssuers() {
		if ca.GetNotAfter() > now.Unix() {
			of[string(ca.GetRoot())] = append(of[string(ca.GetRoot())], Revoked{ca.GetSerial(), ca.GetAt()})
		}
	}
	var out []revocationList
	for _, der := range slices.Concat(c.GetIssuers(), c.GetRoots()) {
		sum := sha256.Sum256(der)
		out = append(out, revocationList{ca: sum[:], revoked: fitting(of[string(sum[:])], nil)})
	}
	for _, ca := range workload {
		out = append(out, revocationList{ca: ca, workload: true, revoked: fitting(ofWorkloads[string(ca)], claimed[string(ca)])})
	}
	return out, nil
}

// fitting is what a list has room for: what is known to be issued before what a node
// merely claims, either the newest first, so that the oldest, which end first, give
// way; of one revocation in the order of its record.
func fitting(issued, claimed []Revoked) []Revoked {
	newest := func(a, b Revoked) int { return cmp.Compare(b.At, a.At) }
	slices.SortStableFunc(issued, newest)
	slices.SortStableFunc(claimed, newest)
	// What was issued to a denied node for a denied identity stands there twice.
	seen := map[string]bool{}
	all := slices.DeleteFunc(append(issued, claimed...), func(r Revoked) bool {
		was := seen[string(r.Serial)]
		seen[string(r.Serial)] = true
		return was
	})
	return all[:min(len(all), maxListed)]
}

// due reports whether the list on record is not the one that should be, or is
// about to end; otherwise it says when it will be.
func (l revocationList) due(r raftstore.Reader, now time.Time) (rec *pkipb.RevocationList, due bool, next time.Time) {
	rec, ok := store.RevocationLists.Get(r, l.id())
	next = time.Unix(rec.GetNextUpdate(), 0).Add(-listAhead)
	return rec, !ok || !bytes.Equal(rec.GetContent(), l.content()) || !now.Before(next), next
}

// RunRevocationLists keeps the lists as they should be, on the leader, until ctx
// ends: one is signed again when something was revoked, and once a day. It also
// forgets what was allowed again long ago, and what ended of what is listed.
func RunRevocationLists(ctx context.Context, c ListsConfig) error {
	for {
		err := runRevocationLists(ctx, c)
		if !errors.Is(err, raftstore.ErrLagged) || ctx.Err() != nil {
			return err
		}
	}
}

func runRevocationLists(ctx context.Context, c ListsConfig) error {
	w, err := c.Store.Watch(func(*raftstore.ReadTx) error { return nil }, store.Nodes, store.Cluster, store.DeniedIdentities)
	if err != nil {
		return err
	}
	defer w.Close()
	pause := listRetry
	for {
		next, err := signLists(ctx, c)
		switch {
		case ctx.Err() != nil:
			return ctx.Err()
		case err != nil:
			c.Logger.Warn("the revocation lists are not renewed yet", "error", err, "retry_in", pause)
			next = time.Now().Add(pause)
			pause = min(2*pause, longestListRetry)
		default:
			pause = listRetry
		}
		if err := awaitRevocation(ctx, w, next); err != nil {
			return err
		}
	}
}

// awaitRevocation returns when something may have been revoked, or at next.
func awaitRevocation(ctx context.Context, w *raftstore.Watch, next time.Time) error {
	wait, cancel := context.WithDeadline(ctx, next)
	defer cancel()
	for {
		events, err := w.Next(wait)
		if err != nil {
			if ctx.Err() == nil && wait.Err() != nil {
				return nil
			}
			return err
		}
		for _, e := range events {
			old, now, ok := store.Nodes.Event(e)
			if !ok || now.GetDenied() || old.GetDenied() {
				return nil
			}
		}
	}
}

// signLists signs what is due and says when something will be.
func signLists(ctx context.Context, c ListsConfig) (next time.Time, _ error) {
	now := time.Now()
	next = now.Add(listCheck) // certificates end meanwhile
	workload, err := c.Signer.WorkloadCA(ctx)
	if err != nil {
		return next, fmt.Errorf("asking which CA is that of workloads: %w", err)
	}
	var lists []revocationList
	var old, former []*pkipb.RevocationList
	gone, forget, level := []string{}, false, uint32(0)
	err = c.Store.View(func(r *raftstore.ReadTx) error {
		if level = r.Level(); level < revocationLevel {
			return nil
		}
		var current [][]byte
		if workload != nil {
			sum := sha256.Sum256(workload)
			current = [][]byte{sum[:]}
		}
		all, err := revocationLists(r, current, now)
		if err != nil {
			return err
		}
		keep := map[string]bool{}
		for _, l := range all {
			keep[l.id()] = true
			rec, due, at := l.due(r, now)
			switch {
			case due:
				lists, old = append(lists, l), append(old, rec)
			case at.Before(next):
				next = at
			}
		}
		for rec := range store.RevocationLists.All(r) {
			switch {
			case keep[rec.GetId()]:
			case rec.GetNextUpdate() > now.Unix():
				former = append(former, rec)
			default:
				gone = append(gone, rec.GetId())
			}
		}
		// What a CA of before issued is shown until it was replaced, by nodes that were
		// away; its last list is good until it ends.
		slices.SortFunc(former, func(a, b *pkipb.RevocationList) int { return int(b.GetNextUpdate() - a.GetNextUpdate()) })
		for len(former) > maxFormerLists {
			gone, former = append(gone, former[len(former)-1].GetId()), former[:len(former)-1]
		}
		former = slices.DeleteFunc(former, (*pkipb.RevocationList).GetFormer)
		forget = len(endedIdentities(r, now.Unix()))+len(endedNodes(r, now.Unix())) > 0
		for rec := range store.DeniedIdentities.All(r) {
			switch end := allowedEnd(rec); {
			case end.IsZero():
			case !now.Before(end):
				forget = true
			case end.Before(next):
				next = end
			}
		}
		return nil
	})
	if err != nil || level < revocationLevel {
		return now.Add(longestListRetry), err
	}
	signed := make([]*pkipb.RevocationList, 0, len(lists))
	for i, l := range lists {
		number := uint64(max(now.UnixMilli(), 1))
		if was, err := x509.ParseRevocationList(old[i].GetCrl()); err == nil && was.Number.IsUint64() {
			number = max(number, was.Number.Uint64()+1)
		}
		crl, until, err := c.Signer.SignCRL(ctx, l.ca, l.revoked, number)
		if err != nil {
			return next, fmt.Errorf("signing the revocation list of CA %.16s: %w", l.id(), err)
		}
		signed = append(signed, &pkipb.RevocationList{Meta: old[i].GetMeta(), Id: l.id(), Crl: crl, Content: l.content(), NextUpdate: until.Unix(), Workload: l.workload})
	}
	if len(signed)+len(gone)+len(former) == 0 && !forget {
		return next, nil
	}
	return next, c.Store.Update(ctx, func(tx *raftstore.Tx) error {
		for _, rec := range signed {
			if err := store.RevocationLists.Put(tx, rec); err != nil {
				return err
			}
		}
		for _, rec := range former {
			rec = proto.CloneOf(rec)
			rec.Former = true
			if err := store.RevocationLists.Put(tx, rec); err != nil {
				return err
			}
		}
		for _, id := range gone {
			if err := store.RevocationLists.Delete(tx, id); err != nil {
				return err
			}
		}
		if _, err := ForgetAllowed(tx); err != nil {
			return err
		}
		return forgetListed(tx)
	})
}

// AwaitRevocationLists returns the lists once they name all that is revoked now, and
// the last ones of CAs of before.
func AwaitRevocationLists(ctx context.Context, s store.Store) (out []*pkipb.RevocationList, _ error) {
	w, err := s.Watch(func(*raftstore.ReadTx) error { return nil }, store.RevocationLists)
	if err != nil {
		return nil, err
	}
	defer w.Close()
	for {
		all := true
		if err := s.View(func(r *raftstore.ReadTx) error {
			out = nil
			var workload [][]byte
			for rec := range store.RevocationLists.All(r) {
				if ca, err := hex.DecodeString(rec.GetId()); err == nil && rec.GetWorkload() && !rec.GetFormer() {
					workload = append(workload, ca)
				} else if rec.GetFormer() {
					out = append(out, rec)
				}
			}
			lists, err := revocationLists(r, workload, time.Now())
			for _, l := range lists {
				rec, _, _ := l.due(r, time.Now())
				all = all && rec != nil && (bytes.Equal(rec.GetContent(), l.content()) || l.names(rec.GetCrl()))
				out = append(out, rec)
			}
			return err
		}); err != nil || all {
			return out, err
		}
		if _, err := w.Next(ctx); err != nil {
			return nil, err
		}
	}
}
