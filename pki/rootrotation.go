package pki

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"slices"

	"google.golang.org/protobuf/proto"

	"github.com/redoubt-cluster/redoubt/pki/pkipb"
	"github.com/redoubt-cluster/redoubt/pki/profile"
	"github.com/redoubt-cluster/redoubt/pki/store"
	"github.com/redoubt-cluster/redoubt/raftstore"
)

// The replacement of a root is a few transactions, each of which leaves the
// cluster whole: a manager that takes the lead in between goes on from what the
// cluster record says, and nothing else is remembered.
//
//	            ┌── abort ──▶ (old root alone)
//	begin ─▶ DISTRIBUTE ─ switch ─▶ REISSUE ─ finish ─▶ (new root alone)
//	                                   └── abort ─▶ RETURN ─ finish ─▶ (old root alone)

// NextCA is what a changed keyset brings that everybody may see.
type NextCA struct {
	Epoch uint64
	// DER; Other is the root that does not sign, or nil.
	Root, Other, Issuer []byte
	Cross               [][]byte
	// External is the root's certificate of the CA outside of the cluster that signs
	// workers; nil where none does.
	External []byte
}

// ErrRotating says that a root is being replaced already, ErrNotRotating that none
// is, and ErrNoAbort that it can not be given up any more.
var (
	ErrRotating    = errors.New("a root is being replaced already")
	ErrNotRotating = errors.New("no root is being replaced")
	ErrNoAbort     = errors.New("the replacement is being given up already")
	// ErrExternalFailing says that workers would get no certificate below a new root.
	ErrExternalFailing = errors.New("the external CA certifies no worker")
)

// next begins a transaction that puts a keyset with that epoch in force.
func nextEpoch(tx *raftstore.Tx, next NextCA) (*pkipb.Cluster, error) {
	c, err := store.GetCluster(tx)
	if err != nil {
		return nil, err
	}
	if next.Epoch != KeysetEpoch(c)+1 {
		return nil, ErrRotated
	}
	c = proto.CloneOf(c)
	c.TokenEpoch, c.WholeEpoch, c.KeysetEpoch = TokenEpoch(c), WholeEpoch(c), next.Epoch
	return c, nil
}

// putIssuer puts another issuing CA in force.
func putIssuer(tx *raftstore.Tx, c *pkipb.Cluster, issuer []byte) {
	addFormer(tx, c, c.GetIssuers()...)
	c.Issuers = [][]byte{issuer}
	revokeUnlisted(tx, c)
}

// addFormer takes issuing CAs out of force.
func addFormer(tx *raftstore.Tx, c *pkipb.Cluster, issuers ...[]byte) {
	former := slices.Concat(issuers, c.GetFormerIssuers())
	n := min(len(former), profile.MaxFormer)
	revokeIssuers(tx, c, former[n:]...) // forgotten, and signs no list
	c.FormerIssuers = former[:n]
}

// RotateIssuer puts a new issuing CA below the same root in force.
func RotateIssuer(tx *raftstore.Tx, next NextCA) error {
	c, err := nextEpoch(tx, next)
	if err != nil {
		return err
	}
	putIssuer(tx, c, next.Issuer)
	return store.Cluster.Put(tx, c)
}

// MayBeginRoot returns why the root can not be replaced now.
func MayBeginRoot(c *pkipb.Cluster) error {
	switch {
	case c.GetRotation() != nil:
		return ErrRotating
	case c.GetExternal().GetFailure() != "":
		return ErrExternalFailing
	}
	return nil
}

// BeginRoot has nodes trust a second root. Join tokens of before are void: they
// pin the root that goes.
func BeginRoot(tx *raftstore.Tx, next NextCA) error {
	c, err := nextEpoch(tx, next)
	if err == nil {
		err = MayBeginRoot(c)
	}
	switch {
	case err != nil:
		return err
	case len(c.GetRoots()) != 1 || !bytes.Equal(c.GetRoots()[0], next.Root) || len(next.Other) == 0:
		return ErrRotated
	}
	void := usableTokens(tx, c)
	now := tx.Now().UnixNano()
	c.TokenEpoch = next.Epoch
	c.Roots, c.Cross = [][]byte{next.Root, next.Other}, bound(next.Cross)
	c.Rotation = &pkipb.Rotation{Phase: pkipb.Rotation_PHASE_DISTRIBUTE, BeganAt: now, PhaseAt: now,
		OldRoot: hashOf(next.Root), NewRoot: hashOf(next.Other), TokensVoid: void}
	return store.Cluster.Put(tx, c)
}

func bound(cross [][]byte) [][]byte { return cross[:min(len(cross), maxCross)] }

func hashOf(der []byte) []byte {
	sum := sha256.Sum256(der)
	return sum[:]
}

// SwitchRoot has the other root's issuing CA sign: from PHASE_DISTRIBUTE the new
// one's, and from PHASE_REISSUE, which is given up with that, the old one's again.
func SwitchRoot(tx *raftstore.Tx, next NextCA) error {
	c, err := nextEpoch(tx, next)
	switch {
	case err != nil:
		return err
	case c.GetRotation() == nil:
		return ErrNotRotating
	case c.Rotation.GetPhase() == pkipb.Rotation_PHASE_RETURN:
		return ErrNoAbort
	}
	to, phase := c.Rotation.GetNewRoot(), pkipb.Rotation_PHASE_REISSUE
	if c.Rotation.GetPhase() == pkipb.Rotation_PHASE_REISSUE {
		to, phase = c.Rotation.GetOldRoot(), pkipb.Rotation_PHASE_RETURN
	}
	if !bytes.Equal(hashOf(next.Root), to) || len(c.GetRoots()) != 2 {
		return ErrRotated
	}
	c.Rotation.Phase, c.Rotation.PhaseAt = phase, tx.Now().UnixNano()
	c.Roots = [][]byte{next.Root, next.Other}
	putIssuer(tx, c, next.Issuer)
	if (c.GetExternal() != nil) != (len(next.External) > 0) {
		return ErrRotated
	}
	if c.GetExternal() != nil { // nodes trust it by the root that signs now
		addFormer(tx, c, c.External.GetIssuer())
		revokeUnlisted(tx, c)
		c.External.Issuer = next.External
	}
	return store.Cluster.Put(tx, c)
}

// FinishRoot ends the replacement with the root that signs: the other one is
// trusted no more, save for what nodes that were away come back with.
func FinishRoot(tx *raftstore.Tx, next NextCA) error {
	c, err := nextEpoch(tx, next)
	switch {
	case err != nil:
		return err
	case c.GetRotation() == nil:
		return ErrNotRotating
	case len(c.GetRoots()) != 2 || !bytes.Equal(c.GetRoots()[0], next.Root) || len(next.Other) != 0:
		return ErrRotated
	}
	r := c.Rotation
	c.LastRotation = &pkipb.RotationResult{BeganAt: r.GetBeganAt(), EndedAt: tx.Now().UnixNano(), TokensVoid: r.GetTokensVoid(),
		Root: hashOf(next.Root), Aborted: bytes.Equal(hashOf(next.Root), r.GetOldRoot())}
	if r.GetPhase() == pkipb.Rotation_PHASE_DISTRIBUTE {
		c.Cross = c.GetCross()[min(1, len(c.GetCross())):] // nobody has a certificate below the other
	} else {
		c.FormerRoots = append([][]byte{c.GetRoots()[1]}, c.GetFormerRoots()...)
		c.FormerRoots = c.FormerRoots[:min(len(c.FormerRoots), profile.MaxFormer)]
	}
	c.Roots, c.Rotation = [][]byte{next.Root}, nil
	leaveAlarms(c)
	leaveExposures(tx, c)
	return store.Cluster.Put(tx, c)
}

// usableTokens counts the join tokens that somebody could join with.
func usableTokens(tx *raftstore.Tx, c *pkipb.Cluster) (n uint32) {
	for t := range store.Tokens.All(tx) {
		if Usable(t, c, tx.Now()) {
			n++
		}
	}
	return n
}

// Reissues reports whether a phase has nodes take new certificates.
func Reissues(r *pkipb.Rotation) bool {
	return r.GetPhase() == pkipb.Rotation_PHASE_REISSUE || r.GetPhase() == pkipb.Rotation_PHASE_RETURN
}

// PinnedRoot is the root that a join token pins: the one that will stay. While
// both are being made known there is none that every manager can show.
func PinnedRoot(c *pkipb.Cluster) ([]byte, error) {
	if r := c.GetRotation(); r != nil && r.GetPhase() == pkipb.Rotation_PHASE_DISTRIBUTE {
		return nil, ErrRotating
	}
	return c.GetRoots()[0], nil
}

// SetWorkerLife sets the life of workers' leaves, in seconds.
func SetWorkerLife(tx *raftstore.Tx, seconds uint32) error {
	c, err := store.GetCluster(tx)
	if err != nil || c.GetWorkerLeafSeconds() == seconds {
		return err
	}
	c = proto.CloneOf(c)
	c.WorkerLeafSeconds = seconds
	return store.Cluster.Put(tx, c)
}
