package keyd

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"errors"
	"fmt"
	"slices"

	"github.com/redoubt-cluster/redoubt/autolock"
	"github.com/redoubt-cluster/redoubt/autolock/keyd/keydpb"
	"github.com/redoubt-cluster/redoubt/internal/lp"
	"github.com/redoubt-cluster/redoubt/internal/tpm"
)

// device is this machine's TPM, or why there is none.
func (s *Server) device() (*tpm.TPM, error) {
	switch {
	case s.cfg.TPM != nil:
		return s.cfg.TPM, nil
	case s.cfg.Section.TPM == "":
		return nil, refuse(keydpb.Code_CODE_NO_TPM, "no TPM is configured for this node: name it in config.yaml (keyd.tpm: /dev/tpmrm0) and restart redoubt-node")
	}
	return nil, refuse(keydpb.Code_CODE_NO_TPM, "the TPM could not be used when keyd started: %v; mend it and restart redoubt-node", s.cfg.TPMErr)
}

// tpmError is what a call of the TPM failed with, in one line and with a code.
func tpmError(err error) error {
	switch {
	case errors.Is(err, tpm.ErrDevice):
		return refuse(keydpb.Code_CODE_NO_TPM, "%v: mend it and restart redoubt-node", oneLine(err))
	case errors.Is(err, tpm.ErrPCRs):
		return refuse(keydpb.Code_CODE_NO_TPM, "%v", tpm.ErrPCRs)
	case errors.Is(err, tpm.ErrBlob), errors.Is(err, tpm.ErrAuth):
		return refuse(keydpb.Code_CODE_NO_TPM, "this machine's TPM does not open it: it was sealed by another, or that one was cleared")
	}
	return refuse(keydpb.Code_CODE_NO_TPM, "the TPM refuses: %s", oneLine(err))
}

// seedAuth is what the TPM must be told to give back the seed of a slot. keyd tells
// it nothing else for anybody, so what it opens for redoubtd is never a seed.
func seedAuth(slotID string) []byte {
	sum := sha256.Sum256(lp.Append([]byte("redoubt tpm slot v1\x00"), []byte(slotID)))
	return sum[:]
}

func registers(pcrs []uint32) (out []int) {
	for _, p := range pcrs {
		out = append(out, int(p))
	}
	return out
}

// makeTPMSeed makes a seed and has the TPM seal it to its present state.
func (s *Server) makeTPMSeed(slot *keydpb.Slot) (*ownSeed, error) {
	t, err := s.device()
	if err != nil {
		return nil, err
	}
	seed := make([]byte, autolock.KeyLen)
	defer clear(seed)
	rand.Read(seed)
	recipient, err := autolock.SeedRecipient(slot.GetKind(), seed)
	if err != nil {
		return nil, err
	}
	sealed, err := t.Seal(context.Background(), registers(slot.GetPcrs()), seed, seedAuth(slot.GetId()))
	if err != nil {
		return nil, tpmError(err)
	}
	return &ownSeed{recipient, sealed}, nil
}

// openTPMSeed has the TPM open the seed of a slot, which the caller wipes.
func (s *Server) openTPMSeed(slot *keydpb.Slot) ([]byte, error) {
	own := s.ownSeedOf(slot.GetId())
	t, err := s.device()
	switch {
	case err != nil:
		return nil, err
	case own == nil:
		return nil, refuse(keydpb.Code_CODE_NO_TPM, "this manager had no TPM when the slot was added: remove the slot and add it again")
	}
	seed, err := t.Unseal(context.Background(), own.sealed, seedAuth(slot.GetId()))
	if err != nil {
		return nil, tpmError(err)
	}
	return seed, nil
}

// openByTPM opens a manager with its TPM when keyd starts, and notes why a slot
// does not open it. One that does not open stays locked for people.
func (s *Server) openByTPM(slot *keydpb.Slot) {
	seed, err := s.openTPMSeed(slot)
	defer clear(seed)
	if err == nil && s.secrets == nil {
		_, err = s.openWith(slot.GetKind(), seed, "by itself: by its TPM")
	}
	if err == nil {
		return
	}
	s.lack(slot.GetId(), err)
	s.log.Warn("the TPM does not open this manager", "slot", autolock.SlotName(slot), "err", err)
}

// lack notes why a slot does not open this manager by itself; the caller holds mu.
func (s *Server) lack(slotID string, why error) {
	if s.lacks == nil {
		s.lacks = map[string]string{}
	}
	s.lacks[slotID] = oneLine(why)
}

// testOwn says whether this machine opens a slot by itself. Nothing changes.
func (s *Server) testOwn(name string) (*keydpb.TestSlotResponse, error) {
	set := s.file.state.GetSlots()
	at := slices.IndexFunc(set.GetSlots(), func(o *keydpb.Slot) bool { return o.GetId() == name || autolock.SlotName(o) == name })
	if at < 0 {
		return nil, invalid("this manager has no slot %q", name)
	}
	slot := set.GetSlots()[at]
	var seed []byte
	var err error
	switch slot.GetKind() {
	case keydpb.SlotKind_SLOT_KIND_TPM:
		seed, err = s.openTPMSeed(slot)
	case keydpb.SlotKind_SLOT_KIND_FILE:
		seed, err = s.readFileSeed(slot)
	default:
		return nil, invalid("slot %s is opened by people: give its key or a share", autolock.SlotName(slot))
	}
	defer clear(seed)
	if err != nil {
		return nil, err
	}
	recipient, err := autolock.SeedRecipient(slot.GetKind(), seed)
	if own := s.ownSeedOf(slot.GetId()); err != nil || own == nil || !bytes.Equal(own.recipient, recipient) {
		return nil, fmt.Errorf("%w (slot %s has another seed)", errStateDamaged, autolock.SlotName(slot))
	}
	return &keydpb.TestSlotResponse{SlotId: slot.GetId(), Epoch: set.GetEpoch()}, nil
}
