package pki

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/redoubt-cluster/redoubt/pki/authz"
	"github.com/redoubt-cluster/redoubt/pki/pkipb"
	"github.com/redoubt-cluster/redoubt/pki/profile"
	"github.com/redoubt-cluster/redoubt/pki/profile/profilepb"
	"github.com/redoubt-cluster/redoubt/pki/store"
	"github.com/redoubt-cluster/redoubt/raftstore"
)

// Invite asks for an invitation. ID and PublicKey come from whoever made the seed,
// which the cluster never sees.
type Invite struct {
	Name      string
	ID        string
	PublicKey []byte
	TTL       time.Duration // how long it can be taken; 0: DefaultInvitationTTL
	Life      time.Duration // of the certificates; 0: profile.PersonLife
	By        string        // who invites, as the authorizer names callers
	// May refuses it, if not nil: asked before keyd signs, and again in the
	// transaction that stores what keyd signed.
	May func(raftstore.Reader) error
}

func (q Invite) may(r raftstore.Reader) error {
	if q.May == nil {
		return nil
	}
	return q.May(r)
}

var (
	// ErrInvalidInvitation is the cause of every refusal of an Invite.
	ErrInvalidInvitation = errors.New("no such invitation can be made")
	// ErrNoPerson says that there is nobody of that name.
	ErrNoPerson = errors.New("no such person: see redoubt person ls")
	// ErrPersonRevoked keeps the name of somebody who was revoked.
	ErrPersonRevoked = errors.New("the person was revoked")
	// ErrManyPeople says that there is no room for another.
	ErrManyPeople = fmt.Errorf("there are %d people, the most there may be: remove some with redoubt person rm", MaxPeople)
)

func (q Invite) record(clusterID string, now time.Time) (*profilepb.InvitationRecord, error) {
	ttl, life := q.TTL, q.Life
	if ttl == 0 {
		ttl = DefaultInvitationTTL
	}
	if life == 0 {
		life = profile.PersonLife
	}
	if ttl < time.Second || ttl > MaxInvitationTTL {
		return nil, fmt.Errorf("%w: a lifetime of %s is out of bounds, at most %s", ErrInvalidInvitation, ttl, MaxInvitationTTL)
	}
	if life%time.Second != 0 {
		return nil, fmt.Errorf("%w: certificates live for whole seconds", ErrInvalidInvitation)
	}
	if err := profile.CheckPersonLife(life); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrInvalidInvitation, err)
	}
	r := &profilepb.InvitationRecord{Id: q.ID, ClusterId: clusterID, PublicKey: q.PublicKey, Person: q.Name,
		MintedAt: now.Unix(), ExpiresAt: now.Add(ttl).Unix(), LifeSeconds: uint32(life / time.Second)}
	if err := profile.CheckInvitationShape(r); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrInvalidInvitation, err)
	}
	return r, nil
}

// InvitePerson has an invitation signed and stores it in the place of an earlier one
// of the same name. replaces: the person has a certificate, which counts until the
// invitation is taken.
func InvitePerson(ctx context.Context, s Store, m InvitationMinter, q Invite) (rec *profilepb.InvitationRecord, replaces bool, err error) {
	var asked *profilepb.InvitationRecord
	err = s.View(func(r *raftstore.ReadTx) error {
		if err := q.may(r); err != nil {
			return err
		}
		c, err := store.GetCluster(r)
		if err != nil {
			return err
		}
		if p, ok := store.People.Get(r, q.Name); ok && p.GetDenied() {
			return ErrPersonRevoked
		}
		asked, err = q.record(c.GetClusterId(), clusterNow(r))
		return err
	})
	if err != nil {
		return nil, false, err
	}
	signed, err := m.MintInvitation(ctx, asked)
	if err != nil {
		return nil, false, fmt.Errorf("minting the invitation: %w", err)
	}
	got, err := profile.ParseInvitation(signed.GetRecord())
	if err != nil {
		return nil, false, fmt.Errorf("minting the invitation: %w", err)
	}
	asked.MintedAt = got.GetMintedAt()
	if !proto.Equal(asked, got) {
		return nil, false, errors.New("minting the invitation: the signed record is not the one asked for")
	}
	err = s.Update(ctx, func(tx *raftstore.Tx) error {
		if err := q.may(tx); err != nil {
			return err
		}
		c, err := store.GetCluster(tx)
		if err != nil {
			return err
		}
		if _, err := PinnedRoot(c); err != nil {
			return err
		}
		if invitationVoid(c, signed) { // a keyd that has not taken the next keyset over yet
			return ErrRotated
		}
		replaces, err = putInvitation(tx, got, signed, q.By)
		return err
	})
	return got, replaces, err
}

func putInvitation(tx *raftstore.Tx, rec *profilepb.InvitationRecord, signed *profilepb.SignedInvitation, by string) (replaces bool, _ error) {
	p, ok := store.People.Get(tx, rec.GetPerson())
	switch {
	case p.GetDenied():
		return false, ErrPersonRevoked
	case ok:
		p = proto.CloneOf(p)
	default:
		n := 0
		for range store.People.All(tx) {
			n++
		}
		if n >= MaxPeople {
			return false, ErrManyPeople
		}
		p = &pkipb.Person{Id: rec.GetPerson()}
	}
	p.Invitation, p.InvitationId, p.InvitedBy = signed, rec.GetId(), by
	return p.GetLeafNotAfter() > tx.Now().Unix(), store.People.Put(tx, p)
}

// invitationVoid reports whether a keyset of before a rotation signed it.
func invitationVoid(c *pkipb.Cluster, s *profilepb.SignedInvitation) bool {
	return max(s.GetKeysetEpoch(), firstEpoch) < TokenEpoch(c)
}

// InvitationOpen returns the record of the invitation that can be taken now, or nil.
func InvitationOpen(c *pkipb.Cluster, p *pkipb.Person, now time.Time) *profilepb.InvitationRecord {
	if p.GetInvitation() == nil || p.GetDenied() || invitationVoid(c, p.GetInvitation()) {
		return nil
	}
	r, err := profile.ParseInvitation(p.GetInvitation().GetRecord())
	if err != nil || profile.CheckInvitation(r, c.GetClusterId(), now) != nil {
		return nil
	}
	return r
}

// RevokePerson denies a person: every call and every connection that hears of it is
// refused once the transaction commits. Denying a denied person changes nothing.
func RevokePerson(tx *raftstore.Tx, name string) error {
	p, ok := store.People.Get(tx, name)
	switch {
	case !ok:
		return ErrNoPerson
	case p.GetDenied():
		return nil
	}
	p = proto.CloneOf(p)
	p.Denied, p.DeniedAt, p.Invitation, p.InvitationId = true, tx.Now().Unix(), nil, ""
	return errors.Join(withdraw(tx, name), store.People.Put(tx, p))
}

// RemovePerson forgets a person, with the same effect.
func RemovePerson(tx *raftstore.Tx, name string) error {
	if _, ok := store.People.Get(tx, name); !ok {
		return ErrNoPerson
	}
	return errors.Join(withdraw(tx, name), store.People.Delete(tx, name))
}

// takenBy writes the certificate that an invitation made, and takes the invitation
// away; the person's former certificates count for nothing.
func takenBy(tx *raftstore.Tx, rec *profilepb.InvitationRecord, leaf *profilepb.CertificateChain) error {
	p, ok := store.People.Get(tx, rec.GetPerson())
	c, err := store.GetCluster(tx)
	switch {
	case err != nil:
		return err
	case !ok || p.GetInvitationId() != rec.GetId():
		return errEnrolRefused
	}
	if err := checkInvited(c, p, rec, tx.Now()); err != nil {
		return err
	}
	p = proto.CloneOf(p)
	p.Invitation, p.InvitationId, p.LifeSeconds = nil, "", rec.GetLifeSeconds()
	return errors.Join(withdraw(tx, p.GetId()), putLeaf(tx, p, leaf, nil))
}

// renewedBy writes a person's next certificate. presented is the SPKI hash of the one
// with which they asked, which stays good: the answer may be lost.
func renewedBy(tx *raftstore.Tx, name string, presented []byte, leaf *profilepb.CertificateChain) error {
	p, _ := store.People.Get(tx, name)
	if err := authz.CheckPerson(p, name, presented); err != nil {
		return err
	}
	return putLeaf(tx, proto.CloneOf(p), leaf, presented)
}

func putLeaf(tx *raftstore.Tx, p *pkipb.Person, chain *profilepb.CertificateChain, previous []byte) error {
	certs, id, err := profile.ParsePersonChain(chain)
	switch {
	case err != nil:
		return fmt.Errorf("issued certificate: %w", err)
	case id.Person != p.GetId():
		return fmt.Errorf("issued certificate is of person %s, not of %s", id.Person, p.GetId())
	case bytes.Equal(id.SPKI, previous):
		return errors.New("the new certificate has the old key: make a fresh one")
	}
	p.LeafSpki, p.PreviousSpki, p.LeafNotAfter, p.LeafIssuer = id.SPKI, previous, certs[0].NotAfter.Unix(), issuerHash(chain)
	return store.People.Put(tx, p)
}

// personNeeds reports whether a person's certificate is of an issuer of before that is
// to be accepted for as long as it lives, or may be, as its successor was made just now.
func personNeeds(c *pkipb.Cluster, p *pkipb.Person, now time.Time) bool {
	if p.GetDenied() || p.GetLeafNotAfter() <= now.Unix() {
		return false
	}
	return !bytes.Equal(p.GetLeafIssuer(), ActiveIssuer(c)) || now.Sub(time.Unix(0, p.GetMeta().GetUpdatedAt())) < reissueGrace
}
