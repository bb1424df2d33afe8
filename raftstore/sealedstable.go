package raftstore

import (
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/hashicorp/raft"
)

// sealedStable seals the small values raft must not forget: the current term
// and the last vote. Their names are replaced as well.
type sealedStable struct {
	inner raft.StableStore
	bind  *binder
	halt  func(error) error
}

// errStableNotFound has the very text by which raft recognises an absent value;
// that text is all there is of a contract between raft and its stores.
var errStableNotFound = errors.New("not found")

// Set implements raft.StableStore.
func (s *sealedStable) Set(key, val []byte) error {
	name := s.bind.sealer.Name(key)
	sealed, err := s.bind.sealer.Seal(labelStable, s.bind.stableAAD(name), val)
	if err == nil {
		err = s.inner.Set(name, sealed)
	}
	return s.check(err, key, "written")
}

// Get implements raft.StableStore.
func (s *sealedStable) Get(key []byte) ([]byte, error) {
	name := s.bind.sealer.Name(key)
	sealed, err := s.inner.Get(name)
	if err == nil && len(sealed) == 0 || err != nil && err.Error() == errStableNotFound.Error() {
		return nil, errStableNotFound
	}
	if err != nil {
		return nil, s.check(err, key, "read")
	}
	val, err := s.bind.sealer.Open(labelStable, s.bind.stableAAD(name), sealed)
	return val, s.check(err, key, "opened")
}

// SetUint64 implements raft.StableStore.
func (s *sealedStable) SetUint64(key []byte, val uint64) error { return s.Set(key, u64(val)) }

// GetUint64 implements raft.StableStore.
func (s *sealedStable) GetUint64(key []byte) (uint64, error) {
	val, err := s.Get(key)
	if err != nil {
		return 0, err
	}
	if len(val) != 8 {
		return 0, s.check(errMalformed, key, "read")
	}
	return binary.BigEndian.Uint64(val), nil
}

func (s *sealedStable) check(err error, key []byte, verb string) error {
	if err == nil {
		return nil
	}
	return s.halt(fmt.Errorf("raft's %s cannot be %s: %w", key, verb, err))
}
