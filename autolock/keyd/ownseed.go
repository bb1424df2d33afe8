package keyd

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"google.golang.org/protobuf/proto"

	"github.com/redoubt-cluster/redoubt/autolock"
	"github.com/redoubt-cluster/redoubt/autolock/keyd/keydpb"
	"github.com/redoubt-cluster/redoubt/internal/atomicfile"
	"github.com/redoubt-cluster/redoubt/internal/headed"
)

// A slot whose seed is this manager's own. While autolock is off the seed lies in
// a file of keyd's, which is written before the state that needs it and removed
// after the state that does not: whenever a crash comes, the state that counts
// finds its seed.
type ownSeed struct {
	recipient []byte // what the KEK is sealed to
	sealed    []byte // a TPM's, or a ticket; empty where the seed lies in a file
}

// autoPrefix and the slot's id are the name of such a file.
const autoPrefix = "auto-"

// ownSlot is a slot as this manager has it.
func ownSlot(slot *keydpb.Slot, recipient []byte) *keydpb.Slot {
	if !autolock.OwnSeed(slot) {
		return slot
	}
	slot = proto.CloneOf(slot)
	slot.Recipient = recipient
	return slot
}

// ownSeeds are those of a set. What this manager has already it keeps; for a slot
// that is new it makes a seed, or takes what the TPM made. The caller holds mu.
func (s *Server) ownSeeds(opened *secrets, nodeID string, set *keydpb.SlotSet, made map[string]madeSeed) (map[string]*ownSeed, error) {
	out := map[string]*ownSeed{}
	maps.DeleteFunc(s.lacks, func(id, _ string) bool {
		return !slices.ContainsFunc(set.GetSlots(), func(o *keydpb.Slot) bool { return o.GetId() == id })
	})
	for _, slot := range set.GetSlots() {
		if !autolock.OwnSeed(slot) {
			continue
		}
		if slot.GetKind() == keydpb.SlotKind_SLOT_KIND_RELEASE {
			ticket, err := s.makeTicket(opened, nodeID, slot)
			if err != nil {
				return nil, fmt.Errorf("making what other managers open this one by: %w", err)
			}
			out[slot.GetId()] = ticket
			continue
		}
		if old := s.ownSeedOf(slot.GetId()); old != nil {
			out[slot.GetId()] = old
			continue
		}
		if slot.GetKind() == keydpb.SlotKind_SLOT_KIND_TPM {
			m, asked := made[slot.GetId()]
			switch {
			case !asked: // it went without that slot when it came, and still does
			case m.err != nil:
				s.lack(slot.GetId(), m.err)
				s.log.Warn("this manager cannot have a slot of its TPM", "slot", autolock.SlotName(slot), "err", m.err)
			default:
				delete(s.lacks, slot.GetId())
				out[slot.GetId()] = m.seed
			}
			continue
		}
		inFile, err := s.makeFileSeed(slot)
		if err != nil {
			return nil, fmt.Errorf("keeping what opens this manager by itself: %w", err)
		}
		out[slot.GetId()] = inFile
	}
	return out, nil
}

// ownSeedOf is what the state in use is sealed to for that slot, or nil.
func (s *Server) ownSeedOf(slotID string) *ownSeed {
	if s.file == nil {
		return nil
	}
	for _, k := range s.file.state.GetKeks() {
		if k.GetSlotId() == slotID && len(k.GetRecipient()) > 0 {
			return &ownSeed{k.GetRecipient(), k.GetSealedSeed()}
		}
	}
	return nil
}

// newSeed makes the seed of a slot of that kind, which the caller wipes, and its public
// half.
func newSeed(kind keydpb.SlotKind) (seed, recipient []byte, err error) {
	seed = make([]byte, autolock.KeyLen)
	rand.Read(seed)
	recipient, err = autolock.SeedRecipient(kind, seed)
	return seed, recipient, err
}

// makeFileSeed makes a seed and keeps it in the file of that slot.
func (s *Server) makeFileSeed(slot *keydpb.Slot) (*ownSeed, error) {
	seed, recipient, err := newSeed(slot.GetKind())
	defer clear(seed)
	if err != nil {
		return nil, err
	}
	name := autoPrefix + slot.GetId()
	raw := headed.Encode(name, seed)
	defer clear(raw)
	return &ownSeed{recipient: recipient}, s.write(s.path(name), raw)
}

// dropOwnSeeds removes the files of slots that the state in use does not have.
func (s *Server) dropOwnSeeds() error {
	found, err := filepath.Glob(s.path(autoPrefix + "*"))
	if err != nil {
		return err
	}
	for _, path := range found {
		if s.file != nil && s.ownSeedOf(strings.TrimPrefix(filepath.Base(path), autoPrefix)) != nil {
			continue
		}
		if err := atomicfile.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	return nil
}

// openByItself opens a manager whose autolock is off, or whose TPM may open it,
// when keyd starts. One that does not open stays locked, and people's slots open it.
func (s *Server) openByItself() {
	if s.broken != nil || s.file == nil {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), s.cfg.TPMTime)
	defer cancel()
	for _, slot := range s.file.state.GetSlots().GetSlots() {
		switch slot.GetKind() {
		case keydpb.SlotKind_SLOT_KIND_FILE:
			s.openByFile(slot)
		case keydpb.SlotKind_SLOT_KIND_TPM:
			s.openByTPM(ctx, slot)
		}
	}
}

func (s *Server) openByFile(slot *keydpb.Slot) {
	seed, err := s.readFileSeed(slot)
	defer clear(seed)
	if err == nil && s.secrets == nil {
		_, err = s.openWith(slot.GetKind(), seed, "by itself: autolock is off")
	}
	if err != nil {
		s.log.Error("autolock is off, but this manager does not open by itself: unlock it", "err", err)
	}
}

func (s *Server) readFileSeed(slot *keydpb.Slot) ([]byte, error) {
	name := autoPrefix + slot.GetId()
	raw, err := atomicfile.ReadBounded(s.path(name), maxSeedFile)
	defer clear(raw)
	if err != nil {
		return nil, err
	}
	if fi, err := os.Stat(s.path(name)); err != nil || fi.Mode().Perm() != 0o600 {
		return nil, fmt.Errorf("%s must have mode 0600 (%v)", s.path(name), err)
	}
	seed, err := headed.Decode(name, raw)
	if err != nil || len(seed) != autolock.KeyLen {
		return nil, fmt.Errorf("%s is damaged (%v)", s.path(name), err)
	}
	return append([]byte(nil), seed...), nil
}
