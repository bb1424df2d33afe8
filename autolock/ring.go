package autolock

import (
	"encoding/binary"
	"fmt"
	"slices"
	"sync"
)

// Ring is what a store is sealed with while its key is renewed: Sealers of several
// key epochs. It seals under the newest and opens a record under the epoch that the
// record names. It is safe for concurrent use; a Seal that is under way when a newer
// key is added may still be under the one before.
type Ring struct {
	mu      sync.RWMutex
	sealers []*Sealer // guarded by mu; newest first, empty once closed
}

// NewRing returns a Ring with one key, which it copies.
func NewRing(key []byte, epoch uint32) (*Ring, error) {
	s, err := NewSealer(key, epoch)
	if err != nil {
		return nil, err
	}
	return &Ring{sealers: []*Sealer{s}}, nil
}

// maxRing bounds the keys of a Ring: the one in use, and the one before.
const maxRing = 2

// Add puts another key into the ring. The highest epoch is the newest.
func (r *Ring) Add(key []byte, epoch uint32) error {
	s, err := NewSealer(key, epoch)
	if err != nil {
		return err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	switch {
	case len(r.sealers) == 0:
		err = ErrClosed
	case slices.ContainsFunc(r.sealers, func(o *Sealer) bool { return o.epoch == epoch }):
		err = fmt.Errorf("a key of epoch %d is there already", epoch)
	case len(r.sealers) == maxRing:
		err = fmt.Errorf("there are %d keys already: one must be dropped first", maxRing)
	}
	if err != nil {
		s.Close()
		return err
	}
	r.sealers = append(r.sealers, s)
	slices.SortFunc(r.sealers, func(a, b *Sealer) int { return int(int64(b.epoch) - int64(a.epoch)) })
	return nil
}

// Drop wipes the key of an epoch, which must not be the newest.
func (r *Ring) Drop(epoch uint32) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	at := slices.IndexFunc(r.sealers, func(s *Sealer) bool { return s.epoch == epoch })
	if at < 1 {
		return fmt.Errorf("there is no former key of epoch %d", epoch)
	}
	r.sealers[at].Close()
	r.sealers = slices.Delete(r.sealers, at, at+1)
	return nil
}

// Epochs are those of the keys, newest first; none once closed.
func (r *Ring) Epochs() (out []uint32) {
	r.mu.RLock()
	defer r.mu.RUnlock()
	for _, s := range r.sealers {
		out = append(out, s.epoch)
	}
	return out
}

// Seal is Sealer.Seal under the newest key.
func (r *Ring) Seal(label string, aad, plaintext []byte) ([]byte, error) {
	s := r.newest()
	if s == nil {
		return nil, ErrClosed
	}
	return s.Seal(label, aad, plaintext)
}

// Open is Sealer.Open under the key that the record names. Which one that is
// stands in the header, which is authenticated with the rest.
func (r *Ring) Open(label string, aad, sealed []byte) ([]byte, error) {
	s := r.newest()
	if s == nil {
		return nil, ErrClosed
	}
	if len(sealed) >= Overhead {
		if of := r.of(binary.BigEndian.Uint32(sealed[offEpoch:])); of != nil {
			s = of
		}
	}
	return s.Open(label, aad, sealed)
}

// Name is Sealer.Name under the newest key.
func (r *Ring) Name(key []byte) []byte {
	s := r.newest()
	if s == nil {
		return nil
	}
	return s.Name(key)
}

// NameUnder is Name under the key of that epoch; nil where there is none.
func (r *Ring) NameUnder(epoch uint32, key []byte) []byte {
	s := r.of(epoch)
	if s == nil {
		return nil
	}
	return s.Name(key)
}

// Close wipes every key.
func (r *Ring) Close() {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, s := range r.sealers {
		s.Close()
	}
	r.sealers = nil
}

func (r *Ring) newest() *Sealer {
	r.mu.RLock()
	defer r.mu.RUnlock()
	if len(r.sealers) == 0 {
		return nil
	}
	return r.sealers[0]
}

func (r *Ring) of(epoch uint32) *Sealer {
	r.mu.RLock()
	defer r.mu.RUnlock()
	for _, s := range r.sealers {
		if s.epoch == epoch {
			return s
		}
	}
	return nil
}
