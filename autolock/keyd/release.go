package keyd

import (
	"bytes"
	"crypto/hkdf"
	"crypto/hpke"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/redoubt-cluster/redoubt/autolock"
	"github.com/redoubt-cluster/redoubt/autolock/keyd/keydpb"
	"github.com/redoubt-cluster/redoubt/internal/ident"
	"github.com/redoubt-cluster/redoubt/internal/lp"
	"github.com/redoubt-cluster/redoubt/internal/strictpb"
)

// Managers release each other (decision 95). A keyd keeps, beside the KEK that is
// sealed to the slot's seed, that seed as a ticket: sealed under a key of the keyset,
// which it does not have while it is locked and the others have.

const (
	ticketKeyInfo = "redoubt release ticket v1"
	ticketLabel   = "release" // the Sealer's
	ticketAAD     = "redoubt release ticket v1\x00"
	releaseLabel  = "redoubt release v1\x00"
)

// withTicketSealer lends fn what tickets are sealed with under the secrets master of
// an epoch.
func (k *keyset) withTicketSealer(epoch uint64, fn func(*autolock.Sealer) error) error {
	for _, e := range append([]epochKey{k.master}, k.formerMasters...) {
		if e.epoch != epoch {
			continue
		}
		key, err := hkdf.Key(sha256.New, e.key, nil, ticketKeyInfo, autolock.KeyLen)
		if err != nil {
			return err
		}
		defer clear(key)
		return withSealer(key, uint32(epoch), fn)
	}
	return refuse(keydpb.Code_CODE_STALE_EPOCH, "the ticket is of keyset epoch %d, whose keys are gone: open that manager with what people have", epoch)
}

func ticketPlace(clusterID, nodeID string, t *keydpb.Ticket) []byte {
	b := []byte(ticketAAD)
	for _, part := range []string{clusterID, nodeID, t.GetSlotId()} {
		b = lp.Append(b, []byte(part))
	}
	return binary.BigEndian.AppendUint64(b, t.GetGeneration())
}

func releaseInfo(clusterID, nodeID string) []byte {
	return lp.Append(lp.Append([]byte(releaseLabel), []byte(clusterID)), []byte(nodeID))
}

// makeTicket makes a seed for that slot and seals it for the other managers. No state
// is ever sealed to a seed that another state was: one release opens one state.
func (s *Server) makeTicket(opened *secrets, nodeID string, slot *keydpb.Slot) (*ownSeed, error) {
	seed, recipient, err := newSeed(slot.GetKind())
	defer clear(seed)
	if err != nil {
		return nil, err
	}
	t := &keydpb.Ticket{SlotId: slot.GetId(), Generation: uint64(time.Now().UnixMilli())}
	if old, err := readTicket(s.ticket()); err == nil {
		t.Generation = max(t.Generation, old.GetGeneration()+1)
	}
	err = opened.keyset.withTicketSealer(opened.keyset.master.epoch, func(sealer *autolock.Sealer) (err error) {
		t.Sealed, err = sealer.Seal(ticketLabel, ticketPlace(opened.keyset.clusterID, nodeID, t), seed)
		return err
	})
	if err != nil {
		return nil, err
	}
	raw, err := proto.MarshalOptions{Deterministic: true}.Marshal(t)
	return &ownSeed{recipient, raw}, err
}

// ticket is that of the state in use; nil where there is none. The caller holds mu.
func (s *Server) ticket() []byte {
	if s.file == nil {
		return nil
	}
	slot := autolock.ReleaseSlot(s.file.state.GetSlots())
	if slot == nil {
		return nil
	}
	if own := s.ownSeedOf(slot.GetId()); own != nil {
		return own.sealed
	}
	return nil
}

func readTicket(raw []byte) (*keydpb.Ticket, error) {
	t := new(keydpb.Ticket)
	switch {
	case len(raw) == 0 || len(raw) > maxTicket:
		return nil, invalid("a ticket is 1 to %d bytes, not %d", maxTicket, len(raw))
	case proto.Unmarshal(raw, t) != nil || strictpb.Unknown(t) != "" || !ident.Valid(t.GetSlotId()) || t.GetGeneration() == 0 ||
		len(t.GetSealed()) != autolock.KeyLen+autolock.Overhead:
		return nil, invalid("the ticket is malformed")
	}
	return t, nil
}

// release opens a ticket of another manager for the session of that manager's locked
// keyd.
func (s *Server) release(req *keydpb.ReleaseRequest) (*keydpb.ReleaseResponse, error) {
	opened, err := s.opened()
	if err != nil {
		return nil, err
	}
	t, err := readTicket(req.GetTicket())
	if err != nil {
		return nil, err
	}
	slot := autolock.ReleaseSlot(s.file.state.GetSlots())
	if slot == nil || slot.GetId() != t.GetSlotId() {
		return nil, denied("the ticket is of a slot that is not there (any more)")
	}
	now := time.Now()
	id, err := s.verifySession(req.GetTo(), now)
	if err != nil {
		return nil, denied("%v", err)
	}
	epoch, ok := autolock.RecordEpoch(t.GetSealed())
	if !ok {
		return nil, invalid("the ticket is malformed")
	}
	var seed []byte
	defer func() { clear(seed) }()
	err = opened.keyset.withTicketSealer(uint64(epoch), func(sealer *autolock.Sealer) (err error) {
		seed, err = sealer.Open(ticketLabel, ticketPlace(id.ClusterID, id.NodeID, t), t.GetSealed())
		return err
	})
	if errors.Is(err, autolock.ErrSealed) {
		return nil, denied("the ticket is not that manager's, or is damaged")
	}
	if err != nil {
		return nil, err
	}
	if !s.releases.take(releaseRate, now) {
		return nil, refuse(keydpb.Code_CODE_RATE_LIMITED, "too many releases: try again in %s", releaseRate.every)
	}
	if err := s.note(entry{Event: "release", Node: id.NodeID, Detail: fmt.Sprintf("ticket %d", t.GetGeneration())}); err != nil {
		return nil, err
	}
	public, err := hpke.MLKEM768X25519().NewPublicKey(req.GetTo().GetSessionKey())
	if err != nil {
		return nil, err
	}
	resp := &keydpb.ReleaseResponse{NodeId: id.NodeID, SlotId: t.GetSlotId(), Generation: t.GetGeneration()}
	resp.Sealed, err = hpke.Seal(public, hpke.HKDFSHA256(), hpke.AES256GCM(), releaseInfo(id.ClusterID, id.NodeID), seed)
	s.log.Info("another manager is released", "node", id.NodeID, "ticket", t.GetGeneration())
	return resp, err
}

// takeRelease opens this manager with what another one released.
func (s *Server) takeRelease(req *keydpb.TakeReleaseRequest) error {
	switch err := s.lockedNow(); {
	case codeOf(err) == keydpb.Code_CODE_NOT_LOCKED:
		return nil // somebody was quicker
	case err != nil:
		return err
	case s.session == nil:
		return refuse(keydpb.Code_CODE_STALE_EPOCH, "the release is sealed to a key that is gone, as keyd was restarted")
	case len(req.GetSealed()) > maxSealedShare:
		return invalid("the release is larger than %d bytes", maxSealedShare)
	}
	private, err := hpke.MLKEM768X25519().NewPrivateKey(s.session.seed.Bytes())
	if err != nil {
		return err
	}
	st := s.file.state
	seed, err := hpke.Open(private, hpke.HKDFSHA256(), hpke.AES256GCM(), releaseInfo(st.GetClusterId(), st.GetNodeId()), req.GetSealed())
	defer clear(seed)
	if err != nil {
		return refuse(keydpb.Code_CODE_STALE_EPOCH, "the release is not sealed to the key in use, or is damaged")
	}
	_, err = s.openWith(keydpb.SlotKind_SLOT_KIND_RELEASE, seed, "released by another manager")
	return err
}

// rearm makes a new ticket, as the one in use may be known to who has the disk, or
// spent; the caller holds mu and has opened.
func (s *Server) rearm() {
	was := s.ticket()
	if was == nil {
		return
	}
	if err := s.save(s.secrets, s.file.state.GetNodeId(), s.file.state.GetSlots(), nil); err != nil || bytes.Equal(was, s.ticket()) {
		s.log.Error("no new ticket was made: after the next start only people open this manager", "err", err)
	}
}
