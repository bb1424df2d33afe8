package backup

import (
	"crypto/hkdf"
	"crypto/rand"
	"crypto/sha256"
	"errors"
	"fmt"

	"google.golang.org/protobuf/proto"

	"github.com/redoubt-cluster/redoubt/autolock"
	"github.com/redoubt-cluster/redoubt/autolock/keyd/keydpb"
	"github.com/redoubt-cluster/redoubt/internal/ident"
	"github.com/redoubt-cluster/redoubt/internal/lp"
	"github.com/redoubt-cluster/redoubt/internal/strictpb"
)

const (
	slotLabel   = "redoubt backup slot v1\x00"
	keysetLabel = "redoubt backup keyset v1\x00"
	stateLabel  = "redoubt backup state v1\x00"

	sealLabel = "backup" // the Sealer's
	keyEpoch  = 1        // the backup's key is used for one backup
)

// Errors of a head. ErrWrongSeed is autolock's.
var (
	ErrMalformed = errors.New("the backup is damaged: its head is malformed")
	ErrDamaged   = errors.New("the backup is damaged: what it holds does not open, or is not what its head says")
)

// Head is a parsed head: what it says is not proved before Open.
type Head struct {
	*keydpb.BackupHead
	Facts *keydpb.BackupFacts
}

// Seal makes the head of a new backup and the key that seals its state, which
// the caller wipes.
func Seal(facts *keydpb.BackupFacts, keyset []byte) (head, stateKey []byte, err error) {
	raw, err := proto.MarshalOptions{Deterministic: true}.Marshal(facts)
	if err != nil {
		return nil, nil, err
	}
	key := make([]byte, autolock.KeyLen)
	defer clear(key)
	rand.Read(key)
	h := &keydpb.BackupHead{Facts: raw}
	for _, slot := range facts.GetSlots().GetSlots() {
		if autolock.OwnSeed(slot) {
			// No machine by itself opens a backup.
			h.Keys = append(h.Keys, &keydpb.BackupKey{SlotId: slot.GetId()})
			continue
		}
		sealed, err := autolock.SealSecret(slot, bind(slotLabel, raw, slot.GetId()), key)
		if err != nil {
			return nil, nil, err
		}
		h.Keys = append(h.Keys, &keydpb.BackupKey{SlotId: slot.GetId(), Sealed: sealed})
	}
	s, err := sealer(key, keysetLabel)
	if err != nil {
		return nil, nil, err
	}
	defer s.Close()
	if h.SealedKeyset, err = s.Seal(sealLabel, bind(keysetLabel, raw, ""), keyset); err != nil {
		return nil, nil, err
	}
	if head, err = proto.Marshal(h); err != nil {
		return nil, nil, err
	}
	if _, err := Parse(head); err != nil {
		return nil, nil, fmt.Errorf("the backup's head cannot be made: %w", err)
	}
	stateKey, err = derive(key, stateLabel)
	return head, stateKey, err
}

// Parse reads a head strictly.
func Parse(head []byte) (*Head, error) {
	h := &Head{BackupHead: new(keydpb.BackupHead), Facts: new(keydpb.BackupFacts)}
	if len(head) == 0 || len(head) > maxHead || proto.Unmarshal(head, h.BackupHead) != nil || strictpb.Unknown(h.BackupHead) != "" ||
		proto.Unmarshal(h.GetFacts(), h.Facts) != nil || strictpb.Unknown(h.Facts) != "" {
		return nil, ErrMalformed
	}
	f := h.Facts
	if !ident.Valid(f.GetClusterId()) || !ident.Valid(f.GetNodeId()) || f.GetIncarnation() == 0 || f.GetIndex() == 0 ||
		autolock.CheckSlotSet(f.GetSlots()) != nil || len(h.GetKeys()) != len(f.GetSlots().GetSlots()) ||
		len(h.GetSealedKeyset()) == 0 || len(h.GetSealedKeyset()) > maxKeyset {
		return nil, ErrMalformed
	}
	for i, slot := range f.GetSlots().GetSlots() {
		if h.GetKeys()[i].GetSlotId() != slot.GetId() || autolock.OwnSeed(slot) != (len(h.GetKeys()[i].GetSealed()) == 0) {
			return nil, ErrMalformed
		}
	}
	return h, nil
}

// Open opens the head with the seed of a slot of that kind: the keyset and the key of the state,
// both the caller's to wipe. A seed of no slot is autolock.ErrWrongSeed.
func (h *Head) Open(kind keydpb.SlotKind, seed []byte) (keyset, stateKey []byte, err error) {
	for i, slot := range h.Facts.GetSlots().GetSlots() {
		if slot.GetKind() != kind || autolock.OwnSeed(slot) {
			continue
		}
		key, err := autolock.OpenSecret(slot, bind(slotLabel, h.GetFacts(), slot.GetId()), seed, h.GetKeys()[i].GetSealed())
		switch {
		case errors.Is(err, autolock.ErrWrongSeed):
			continue
		case err != nil:
			return nil, nil, ErrDamaged
		}
		defer clear(key)
		s, err := sealer(key, keysetLabel)
		if err != nil {
			return nil, nil, err
		}
		defer s.Close()
		keyset, err := s.Open(sealLabel, bind(keysetLabel, h.GetFacts(), ""), h.GetSealedKeyset())
		if err != nil {
			return nil, nil, ErrDamaged
		}
		stateKey, err := derive(key, stateLabel)
		return keyset, stateKey, err
	}
	return nil, nil, autolock.ErrWrongSeed
}

// bind is what a part of the head is sealed with: the facts, and whose it is.
func bind(label string, facts []byte, slotID string) []byte {
	return lp.Append(lp.Append([]byte(label), facts), []byte(slotID))
}

func derive(key []byte, label string) ([]byte, error) {
	return hkdf.Key(sha256.New, key, nil, label, autolock.KeyLen)
}

func sealer(key []byte, label string) (*autolock.Sealer, error) {
	sub, err := derive(key, label)
	if err != nil {
		return nil, err
	}
	defer clear(sub)
	return autolock.NewSealer(sub, keyEpoch)
}
