package seal

import (
	"crypto/hkdf"
	"crypto/hpke"
	"crypto/sha256"
	"encoding/binary"
	"errors"

	"github.com/redoubt-cluster/redoubt/internal/lp"
)

const masterLabel = "redoubt secrets master v1\x00"

// Master opens the keys that were sealed to the cluster in one epoch.
type Master struct {
	epoch   uint64
	private hpke.PrivateKey
}

// NewMaster derives the key pair of a secrets master, which is 32 bytes. The
// caller wipes those; the pair lives for as long as the Master.
func NewMaster(clusterID string, epoch uint64, master []byte) (*Master, error) {
	if len(master) != keyLen {
		return nil, errors.New("the secrets master has a wrong length")
	}
	info := binary.BigEndian.AppendUint64(lp.Append([]byte(masterLabel), []byte(clusterID)), epoch)
	seed, err := hkdf.Key(sha256.New, master, nil, string(info), keyLen)
	if err != nil {
		return nil, err
	}
	defer clear(seed)
	private, err := hpke.MLKEM768X25519().DeriveKeyPair(seed)
	if err != nil {
		return nil, err
	}
	return &Master{epoch, private}, nil
}

// Recipient is what keys are sealed to.
func (m *Master) Recipient() []byte { return m.private.PublicKey().Bytes() }

// OpenKey opens the key of a version. The caller wipes it.
func (m *Master) OpenKey(s Subject, sealed []byte) ([]byte, error) {
	if err := s.Check(); err != nil {
		return nil, err
	}
	return unwrap(m.private, s.keyInfo(m.epoch), sealed)
}
