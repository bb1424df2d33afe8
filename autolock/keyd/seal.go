package keyd

import (
	"errors"
	"fmt"

	"github.com/awnumar/memguard"

	"github.com/redoubt-cluster/redoubt/autolock"
	"github.com/redoubt-cluster/redoubt/autolock/keyd/keydpb"
	"github.com/redoubt-cluster/redoubt/autolock/keyd/statepb"
)

// secrets is everything that is open while keyd is unlocked.
type secrets struct {
	keyset *keyset
	local  *local
	// incarnation of the cluster's life, from 1: it is bound into all that the
	// store seals.
	incarnation uint64
}

func (s *secrets) destroy() {
	if s != nil {
		s.keyset.destroy()
		s.local.destroy()
	}
}

const (
	fileLabel  = "file" // the Sealer's label for what is kept in files
	keysetName = "keyset"
	localName  = "local"
	leafName   = "manager-leaf"
)

// sealState seals secrets under a fresh KEK, and the KEK to every slot. It
// returns the file's bytes; the KEK is gone when it returns.
//
// own has, by slot, what the KEK is sealed to where the seed is this manager's own.
func (s *secrets) sealState(nodeID string, slots *keydpb.SlotSet, own map[string]*ownSeed) (*statepb.State, []byte, error) {
	kek := randomKey()
	defer kek.Destroy()
	clusterID := s.keyset.clusterID
	st := &statepb.State{ClusterId: clusterID, NodeId: nodeID, Slots: slots}
	if knowsOthers(slots) { // else a version that knows of neither can go on
		st.RootPins = s.keyset.rootPins()
	}
	if s.incarnation > 1 { // the first was not written in the beginning
		st.Incarnation = s.incarnation
	}
	c := autolock.SlotContext{ClusterID: clusterID, NodeID: nodeID, Epoch: slots.GetEpoch()}
	for _, slot := range slots.GetSlots() {
		k := &statepb.SealedKek{SlotId: slot.GetId()}
		if o := own[slot.GetId()]; o != nil {
			k.Recipient, k.SealedSeed = o.recipient, o.sealed
		}
		var err error
		if !autolock.OwnSeed(slot) || k.Recipient != nil { // else this manager cannot have that slot
			if k.Sealed, err = autolock.SealToSlot(ownSlot(slot, k.Recipient), c, kek.Bytes()); err != nil {
				return nil, nil, err
			}
		}
		st.Keks = append(st.Keks, k)
	}
	err := withSealer(kek.Bytes(), uint32(slots.GetEpoch()), func(sealer *autolock.Sealer) (err error) {
		if st.SealedKeyset, err = sealer.Seal(fileLabel, autolock.FileAAD(clusterID, 0, nodeID, keysetName), s.keyset.buf.Bytes()); err != nil {
			return err
		}
		st.SealedLocal, err = sealer.Seal(fileLabel, autolock.FileAAD(clusterID, 0, nodeID, localName), s.local.buf.Bytes())
		return err
	})
	if err != nil {
		return nil, nil, err
	}
	raw, err := encodeState(st, kek.Bytes())
	return st, raw, err
}

// open opens a state file with a slot's seed and says which slot it was. Damage
// is told apart from a wrong key.
func (f *stateFile) open(kind keydpb.SlotKind, seed []byte) (_ *secrets, slotID string, err error) {
	kek, slotID, err := f.openKEK(kind, seed)
	if err != nil {
		return nil, "", err
	}
	defer kek.Destroy()
	if !f.authentic(kek.Bytes()) {
		return nil, "", errStateDamaged
	}
	s := &secrets{incarnation: max(1, f.state.GetIncarnation())} // the MAC covers it
	defer func() {
		if err != nil {
			s.destroy()
		}
	}()
	st := f.state
	err = withSealer(kek.Bytes(), uint32(st.GetSlots().GetEpoch()), func(sealer *autolock.Sealer) error {
		buf, err := openInto(sealer, st, keysetName, st.GetSealedKeyset())
		if err != nil {
			return err
		}
		if s.keyset, err = openKeyset(buf); err != nil {
			return err
		}
		if buf, err = openInto(sealer, st, localName, st.GetSealedLocal()); err != nil {
			return err
		}
		s.local, err = openLocal(buf)
		return err
	})
	if err != nil {
		return nil, "", fmt.Errorf("%w (%w)", errStateDamaged, err)
	}
	if s.keyset.clusterID != st.GetClusterId() {
		return nil, "", errStateDamaged
	}
	return s, slotID, nil
}

func (f *stateFile) openKEK(kind keydpb.SlotKind, seed []byte) (*memguard.LockedBuffer, string, error) {
	st := f.state
	c := autolock.SlotContext{ClusterID: st.GetClusterId(), NodeID: st.GetNodeId(), Epoch: st.GetSlots().GetEpoch()}
	for i, slot := range st.GetSlots().GetSlots() {
		k := st.GetKeks()[i]
		if slot.GetKind() != kind || len(k.GetSealed()) == 0 {
			continue
		}
		kek, err := autolock.OpenSlot(ownSlot(slot, k.GetRecipient()), c, seed, k.GetSealed())
		switch {
		case err == nil:
			return memguard.NewBufferFromBytes(kek), slot.GetId(), nil // wipes kek
		case !errors.Is(err, autolock.ErrWrongSeed):
			return nil, "", fmt.Errorf("%w (%w)", errStateDamaged, err)
		}
	}
	return nil, "", refuse(keydpb.Code_CODE_WRONG_KEY, "wrong key: no slot of this manager opens with it")
}

// openInto opens a sealed part of the state into locked memory.
func openInto(sealer *autolock.Sealer, st *statepb.State, name string, sealed []byte) (*memguard.LockedBuffer, error) {
	plain, err := sealer.Open(fileLabel, autolock.FileAAD(st.GetClusterId(), 0, st.GetNodeId(), name), sealed)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	if len(plain) == 0 {
		return nil, fmt.Errorf("%s: empty", name)
	}
	return memguard.NewBufferFromBytes(plain), nil // wipes plain
}

// sealLeaf seals the manager leaf's key. Its key is not the KEK, which every
// Reseal replaces, but lies under it, and is renewed with the DEK.
func (s *secrets) sealLeaf(nodeID string, key []byte) (sealed []byte, err error) {
	err = withSealer(s.local.leafKey, s.local.dekEpoch, func(sealer *autolock.Sealer) error {
		sealed, err = sealer.Seal(fileLabel, autolock.FileAAD(s.keyset.clusterID, 0, nodeID, leafName), key)
		return err
	})
	return sealed, err
}

func (s *secrets) openLeaf(nodeID string, sealed []byte) (key []byte, err error) {
	open := func(with []byte, epoch uint32) error {
		return withSealer(with, epoch, func(sealer *autolock.Sealer) error {
			key, err = sealer.Open(fileLabel, autolock.FileAAD(s.keyset.clusterID, 0, nodeID, leafName), sealed)
			return err
		})
	}
	err = open(s.local.leafKey, s.local.dekEpoch)
	var epoch *autolock.EpochError
	if errors.As(err, &epoch) && epoch.Got == s.local.formerEpoch && s.local.formerEpoch != 0 {
		err = open(s.local.formerLeafKey, s.local.formerEpoch)
	}
	return key, err
}
