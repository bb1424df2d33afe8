package testseal

import (
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"sync"
)

// Ring is a raftstore.Keyring of random keys. Its records begin as real ones do, so
// that they can be told apart without a key.
type Ring struct {
	mu   sync.RWMutex
	keys map[uint32]*Sealer // guarded by mu
}

const ringHead = "RDTS\x01\x01"

// NewRing returns a ring with the keys of these epochs.
func NewRing(epochs ...uint32) *Ring {
	r := &Ring{keys: map[uint32]*Sealer{}}
	for _, e := range epochs {
		r.Add(e)
	}
	return r
}

// Add adds a fresh key.
func (r *Ring) Add(epoch uint32) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.keys[epoch] = New()
}

// Drop forgets a key.
func (r *Ring) Drop(epoch uint32) {
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.keys, epoch)
}

// With returns a ring that has only the keys of these epochs.
func (r *Ring) With(epochs ...uint32) *Ring {
	r.mu.RLock()
	defer r.mu.RUnlock()
	out := &Ring{keys: map[uint32]*Sealer{}}
	for _, e := range epochs {
		out.keys[e] = r.keys[e]
	}
	return out
}

// Epochs implements raftstore.Keyring.
func (r *Ring) Epochs() (out []uint32) {
	r.mu.RLock()
	defer r.mu.RUnlock()
	for e := range r.keys {
		out = append(out, e)
	}
	slices.Sort(out)
	slices.Reverse(out)
	return out
}

func (r *Ring) key(epoch uint32) *Sealer {
	r.mu.RLock()
	defer r.mu.RUnlock()
	return r.keys[epoch]
}

// Seal implements raftstore.Sealer.
func (r *Ring) Seal(label string, aad, plaintext []byte) ([]byte, error) {
	epoch := r.Epochs()[0]
	head := binary.BigEndian.AppendUint32([]byte(ringHead), epoch)
	sealed, err := r.key(epoch).Seal(label, append(slices.Clone(head), aad...), plaintext)
	return append(head, sealed...), err
}

// Open implements raftstore.Sealer.
func (r *Ring) Open(label string, aad, sealed []byte) ([]byte, error) {
	n := len(ringHead) + 4
	if len(sealed) < n || string(sealed[:len(ringHead)]) != ringHead {
		return nil, errors.New("testseal: no record")
	}
	epoch := binary.BigEndian.Uint32(sealed[len(ringHead):])
	s := r.key(epoch)
	if s == nil {
		return nil, fmt.Errorf("testseal: no key of epoch %d", epoch)
	}
	return s.Open(label, append(slices.Clone(sealed[:n]), aad...), sealed[n:])
}

// Name implements raftstore.Sealer.
func (r *Ring) Name(key []byte) []byte { return r.NameUnder(r.Epochs()[0], key) }

// NameUnder implements raftstore.Keyring.
func (r *Ring) NameUnder(epoch uint32, key []byte) []byte {
	if s := r.key(epoch); s != nil {
		return s.Name(key)
	}
	return nil
}
