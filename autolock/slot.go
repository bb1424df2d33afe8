package autolock

import (
	"crypto/hkdf"
	"crypto/hpke"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/redoubt-cluster/redoubt/autolock/keyd/keydpb"
	"github.com/redoubt-cluster/redoubt/internal/ident"
	"github.com/redoubt-cluster/redoubt/internal/lp"
)

const kekSlotLabel = "redoubt kek slot v1\x00"

// seedInfo is what the seed of a slot of that kind derives its key pair with, so
// that no seed is of two kinds.
var seedInfo = map[keydpb.SlotKind]string{
	keydpb.SlotKind_SLOT_KIND_OPERATOR: "redoubt slot operator v1",
	keydpb.SlotKind_SLOT_KIND_SHAMIR:   "redoubt slot shamir v1",
	keydpb.SlotKind_SLOT_KIND_TPM:      "redoubt slot tpm v1",
	keydpb.SlotKind_SLOT_KIND_FILE:     "redoubt slot file v1",
	keydpb.SlotKind_SLOT_KIND_RELEASE:  "redoubt slot release v1",
}

// ErrWrongSeed is OpenSlot's answer to a seed that is not the slot's.
var ErrWrongSeed = errors.New("the key does not open this slot")

// SlotContext says whose KEK is sealed, so that a sealed KEK is worth nothing
// elsewhere or at another epoch.
type SlotContext struct {
	ClusterID string
	NodeID    string
	Epoch     uint64
}

// CheckSlotSet returns an error unless s is a set that a KEK can be sealed to:
// a non-zero epoch and 1 to MaxSlots well-formed slots with distinct ids, names
// and recipients, of which at least one is opened by people: a set of machines'
// own slots alone would be lost with the machines.
func CheckSlotSet(s *keydpb.SlotSet) error {
	switch n := len(s.GetSlots()); {
	case s.GetEpoch() == 0:
		return errors.New("slot set: the epoch must not be 0")
	case n == 0:
		return errors.New("slot set: it is empty, which would lock the manager for ever")
	case n > MaxSlots:
		return fmt.Errorf("slot set: %d slots exceed the limit of %d", n, MaxSlots)
	}
	ids, recipients, names := make(map[string]bool), make(map[string]bool), make(map[string]bool)
	people, files, releases := 0, 0, 0
	for _, slot := range s.GetSlots() {
		if err := CheckSlot(slot); err != nil {
			return err
		}
		if ids[slot.GetId()] || !OwnSeed(slot) && recipients[string(slot.GetRecipient())] {
			return fmt.Errorf("slot set: slot %s appears twice", slot.GetId())
		}
		if name := SlotName(slot); names[name] {
			return fmt.Errorf("slot set: two slots are called %s", name)
		}
		ids[slot.GetId()], names[SlotName(slot)] = true, true
		switch {
		case !OwnSeed(slot):
			recipients[string(slot.GetRecipient())] = true
			people++
		case slot.GetKind() == keydpb.SlotKind_SLOT_KIND_FILE:
			files++
		case slot.GetKind() == keydpb.SlotKind_SLOT_KIND_RELEASE:
			releases++
		}
	}
	switch {
	case people == 0:
		return errors.New("slot set: nobody could open a manager: it needs an operator key or shares")
	case files > 1:
		return errors.New("slot set: autolock is off twice")
	case releases > 1:
		return errors.New("slot set: there is a slot by which managers release each other already")
	}
	return nil
}

// OwnSeed reports whether each manager has a seed of its own for that slot, so
// that the slot has no recipient.
func OwnSeed(slot *keydpb.Slot) bool {
	switch slot.GetKind() {
	case keydpb.SlotKind_SLOT_KIND_TPM, keydpb.SlotKind_SLOT_KIND_FILE, keydpb.SlotKind_SLOT_KIND_RELEASE:
		return true
	}
	return false
}

// SlotName is what people call a slot.
func SlotName(slot *keydpb.Slot) string {
	if slot.GetName() == "" {
		return "operator"
	}
	return slot.GetName()
}

// LeavingSlot is the operator slot that is replaced when a manager leaves: the
// first release's where there are several, nil where there is none.
func LeavingSlot(s *keydpb.SlotSet) (found *keydpb.Slot) {
	for _, slot := range s.GetSlots() {
		if slot.GetKind() == keydpb.SlotKind_SLOT_KIND_OPERATOR && (found == nil || SlotName(slot) == "operator") {
			found = slot
		}
	}
	return found
}

// FileSlot is the slot by which autolock is off, or nil.
func FileSlot(s *keydpb.SlotSet) *keydpb.Slot {
	for _, slot := range s.GetSlots() {
		if slot.GetKind() == keydpb.SlotKind_SLOT_KIND_FILE {
			return slot
		}
	}
	return nil
}

// CheckSlot returns an error unless slot is well formed.
func CheckSlot(slot *keydpb.Slot) error {
	if !ident.Valid(slot.GetId()) {
		return errors.New("slot: malformed id")
	}
	if seedInfo[slot.GetKind()] == "" {
		return fmt.Errorf("slot %s: unknown kind %d", slot.GetId(), slot.GetKind())
	}
	if slot.GetName() != "" {
		if err := ident.CheckOwnName("slot", slot.GetName()); err != nil {
			return err
		}
	}
	if err := checkShares(slot); err != nil {
		return fmt.Errorf("slot %s: %w", slot.GetId(), err)
	}
	if err := checkRegisters(slot); err != nil {
		return fmt.Errorf("slot %s: %w", slot.GetId(), err)
	}
	if err := checkRelease(slot); err != nil {
		return fmt.Errorf("slot %s: %w", slot.GetId(), err)
	}
	if OwnSeed(slot) {
		if len(slot.GetRecipient()) != 0 {
			return fmt.Errorf("slot %s: its seed is each manager's own, so it has no recipient", slot.GetId())
		}
		return nil
	}
	if _, err := hpke.MLKEM768X25519().NewPublicKey(slot.GetRecipient()); err != nil {
		return fmt.Errorf("slot %s: the recipient is not an MLKEM768-X25519 public key", slot.GetId())
	}
	return nil
}

// checkRegisters returns an error unless the registers that a slot names fit its
// kind, and are in ascending order.
func checkRegisters(slot *keydpb.Slot) error {
	if len(slot.GetPcrs()) > 0 && slot.GetKind() != keydpb.SlotKind_SLOT_KIND_TPM {
		return errors.New("it names registers (PCR), and is no slot of a TPM")
	}
	for i, p := range slot.GetPcrs() {
		if p >= Registers || i > 0 && p <= slot.GetPcrs()[i-1] {
			return fmt.Errorf("registers (PCR) are 0 to %d, each once, in ascending order", Registers-1)
		}
	}
	return nil
}

// SealToSlot seals a KEK to a slot.
func SealToSlot(slot *keydpb.Slot, c SlotContext, kek []byte) ([]byte, error) {
	return SealSecret(slot, kekInfo(c, slot.GetId()), kek)
}

// OpenSlot opens a sealed KEK with a slot's seed. A seed of another slot gives
// ErrWrongSeed; the right seed with a damaged ciphertext gives another error,
// so that damage is never taken for a typing mistake. The caller wipes the KEK.
func OpenSlot(slot *keydpb.Slot, c SlotContext, seed, sealed []byte) ([]byte, error) {
	return OpenSecret(slot, kekInfo(c, slot.GetId()), seed, sealed)
}

// SealSecret seals a 32-byte key to a slot, bound to info.
func SealSecret(slot *keydpb.Slot, info, key []byte) ([]byte, error) {
	if seedInfo[slot.GetKind()] == "" {
		return nil, fmt.Errorf("slot %s: unknown kind %d", slot.GetId(), slot.GetKind())
	}
	pub, err := hpke.MLKEM768X25519().NewPublicKey(slot.GetRecipient())
	if err != nil {
		return nil, err
	}
	return hpke.Seal(pub, hpke.HKDFSHA256(), hpke.AES256GCM(), info, key)
}

// OpenSecret opens what SealSecret made, with the errors of OpenSlot.
func OpenSecret(slot *keydpb.Slot, info, seed, sealed []byte) ([]byte, error) {
	priv, err := slotKey(slot.GetKind(), seed)
	if err != nil {
		return nil, err
	}
	if string(priv.PublicKey().Bytes()) != string(slot.GetRecipient()) { // public halves
		return nil, ErrWrongSeed
	}
	key, err := hpke.Open(priv, hpke.HKDFSHA256(), hpke.AES256GCM(), info, sealed)
	if err != nil {
		return nil, fmt.Errorf("slot %s: the sealed key is damaged", slot.GetId())
	}
	if len(key) != KeyLen {
		clear(key)
		return nil, fmt.Errorf("slot %s: the sealed key has a wrong length", slot.GetId())
	}
	return key, nil
}

func slotKey(kind keydpb.SlotKind, seed []byte) (hpke.PrivateKey, error) {
	info := seedInfo[kind]
	if info == "" {
		return nil, fmt.Errorf("slot: unknown kind %d", kind)
	}
	if len(seed) != KeyLen {
		return nil, fmt.Errorf("slot seed is %d bytes, not %d", len(seed), KeyLen)
	}
	ikm, err := hkdf.Key(sha256.New, seed, nil, info, KeyLen)
	if err != nil {
		return nil, err
	}
	defer clear(ikm)
	return hpke.MLKEM768X25519().DeriveKeyPair(ikm)
}

// SeedRecipient is what a seed of that kind opens: the public half of its key.
func SeedRecipient(kind keydpb.SlotKind, seed []byte) ([]byte, error) {
	priv, err := slotKey(kind, seed)
	if err != nil {
		return nil, err
	}
	return priv.PublicKey().Bytes(), nil
}

func kekInfo(c SlotContext, slotID string) []byte {
	b := lp.Append([]byte(kekSlotLabel), []byte(c.ClusterID))
	b = lp.Append(b, []byte(c.NodeID))
	b = binary.BigEndian.AppendUint64(b, c.Epoch)
	return lp.Append(b, []byte(slotID))
}
