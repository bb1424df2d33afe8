package autolock

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/hkdf"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"

	"github.com/redoubt-cluster/redoubt/internal/erase"
	"github.com/redoubt-cluster/redoubt/internal/lp"
)

// A sealed record: magic, format, suite, key epoch, salt, nonce, ciphertext.
const (
	recordMagic  = "RDTS"
	recordFormat = 1

	saltLen   = 16
	nonceLen  = 12
	tagLen    = 16
	offSuite  = len(recordMagic) + 1
	offEpoch  = offSuite + 1
	offSalt   = offEpoch + 4
	offNonce  = offSalt + saltLen
	headerLen = offNonce + nonceLen

	namesLabel = "redoubt names v1\x00"
)

// Overhead is how much longer a sealed record is than its plaintext.
const Overhead = headerLen + tagLen

// Errors of a Sealer. ErrSealed covers every record that does not open: a
// changed bit, another key, another place than the AAD says.
var (
	ErrSealed = errors.New("the sealed record does not open: it is damaged, moved, or of another key")
	ErrClosed = errors.New("sealing is closed: the key was taken away")
)

// EpochError says that a record was sealed under another key epoch.
type EpochError struct{ Got, Want uint32 }

func (e *EpochError) Error() string {
	return fmt.Sprintf("the sealed record is of key epoch %d, and the key in use of epoch %d", e.Got, e.Want)
}

// Sealer seals and opens records under one key. It is safe for concurrent use.
//
// Each label gets a subkey of its own from a salt that is drawn when the label
// is first used, so two processes that ever held the same key never share a
// subkey. How the nonces under it are chosen, and how many, is the suite's. It
// seals by one suite and opens what either sealed.
type Sealer struct {
	epoch uint32
	suite suite
	aads  sync.Pool // *[]byte, for header ‖ AAD

	mu      sync.RWMutex
	key     []byte             // guarded by mu; nil once closed
	names   []byte             // guarded by mu
	streams map[string]*stream // guarded by mu; by label, for sealing
	open    map[openKey]cipher.AEAD
	order   []openKey // guarded by mu; oldest first
	limit   uint64    // records under one salt; the suite's, lower in tests
}

// stream is one label's subkey in use.
type stream struct {
	salt [saltLen]byte
	aead cipher.AEAD
	used atomic.Uint64 // records begun
}

type openKey struct {
	suite suite
	label string
	salt  [saltLen]byte
}

// NewSealer returns a Sealer under a 32-byte key, which it copies.
func NewSealer(key []byte, epoch uint32) (s *Sealer, err error) {
	erase.Do(func() { s, err = makeSealer(key, epoch, ownSuite()) })
	return s, err
}

func makeSealer(key []byte, epoch uint32, by suite) (*Sealer, error) {
	if len(key) != KeyLen {
		return nil, fmt.Errorf("sealing key is %d bytes, not %d", len(key), KeyLen)
	}
	names, err := hkdf.Key(sha256.New, key, nil, namesLabel, KeyLen)
	if err != nil {
		return nil, err
	}
	s := &Sealer{
		epoch:   epoch,
		suite:   by,
		key:     append([]byte(nil), key...),
		names:   names,
		streams: make(map[string]*stream),
		open:    make(map[openKey]cipher.AEAD),
		limit:   by.records(),
	}
	s.aads.New = func() any { return new([]byte) }
	return s, nil
}

// Seal encrypts plaintext as a record of the stream label, bound to aad.
func (s *Sealer) Seal(label string, aad, plaintext []byte) ([]byte, error) {
	st, n, err := s.next(label)
	if err != nil {
		return nil, err
	}
	out := make([]byte, headerLen, headerLen+len(plaintext)+tagLen)
	copy(out, recordMagic)
	out[len(recordMagic)], out[offSuite] = recordFormat, byte(s.suite)
	binary.BigEndian.PutUint32(out[offEpoch:], s.epoch)
	copy(out[offSalt:], st.salt[:])
	if s.suite == suiteCounted {
		binary.BigEndian.PutUint64(out[headerLen-8:], n)
	}

	bound := s.suite.bound(out)
	full := s.aad(bound, aad)
	defer s.aads.Put(full)
	if s.suite == suiteDrawn { // the cipher draws the nonce, and writes it
		return st.aead.Seal(bound, nil, plaintext, *full), nil
	}
	return st.aead.Seal(out, out[offNonce:], plaintext, *full), nil
}

// Open decrypts a record that Seal made with the same label and aad.
func (s *Sealer) Open(label string, aad, sealed []byte) ([]byte, error) {
	if len(sealed) < Overhead || string(sealed[:len(recordMagic)]) != recordMagic || sealed[len(recordMagic)] != recordFormat {
		return nil, ErrSealed
	}
	by := suite(sealed[offSuite])
	if !by.known() {
		return nil, ErrSealed
	}
	if e := binary.BigEndian.Uint32(sealed[offEpoch:]); e != s.epoch {
		return nil, &EpochError{Got: e, Want: s.epoch}
	}
	aead, err := s.opener(openKey{by, label, [saltLen]byte(sealed[offSalt:offNonce])})
	if err != nil {
		return nil, err
	}
	full := s.aad(by.bound(sealed), aad)
	defer s.aads.Put(full)
	plain, err := aead.Open(nil, nil, sealed[offNonce:], *full)
	if err != nil {
		return nil, ErrSealed
	}
	return plain, nil
}

// RecordEpoch is the epoch of the key that a record says it was sealed under. Only
// Open tells whether that is so.
func RecordEpoch(sealed []byte) (uint32, bool) {
	if len(sealed) < Overhead || string(sealed[:len(recordMagic)]) != recordMagic {
		return 0, false
	}
	return binary.BigEndian.Uint32(sealed[offEpoch:]), true
}

// Name returns the name under which key is kept, which tells nothing about it.
// Once the Sealer is closed it returns nil.
func (s *Sealer) Name(key []byte) []byte {
	s.mu.RLock()
	defer s.mu.RUnlock()
	if s.key == nil {
		return nil
	}
	h := hmac.New(sha256.New, s.names)
	h.Write(key)
	return h.Sum(nil)
}

// Close wipes the key. Every later call fails.
func (s *Sealer) Close() {
	s.mu.Lock()
	defer s.mu.Unlock()
	clear(s.key)
	clear(s.names)
	s.key, s.names, s.streams, s.open, s.order = nil, nil, nil, nil, nil
}

// next returns the subkey of label and a nonce never used with it.
func (s *Sealer) next(label string) (*stream, uint64, error) {
	for {
		s.mu.RLock()
		st, closed := s.streams[label], s.key == nil
		s.mu.RUnlock()
		if closed {
			return nil, 0, ErrClosed
		}
		if st != nil {
			if n := st.used.Add(1); n <= s.limit {
				return st, n, nil
			}
		}
		if err := s.renew(label, st); err != nil {
			return nil, 0, err
		}
	}
}

// renew gives label a new salt unless somebody did since old was read.
func (s *Sealer) renew(label string, old *stream) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.key == nil {
		return ErrClosed
	}
	if s.streams[label] != old {
		return nil
	}
	st := new(stream)
	rand.Read(st.salt[:])
	var err error
	if st.aead, err = s.derive(openKey{s.suite, label, st.salt}, s.suite.sealing); err != nil {
		return err
	}
	s.streams[label] = st
	return nil
}

func (s *Sealer) opener(k openKey) (cipher.AEAD, error) {
	s.mu.RLock()
	aead, closed := s.open[k], s.key == nil
	s.mu.RUnlock()
	if closed {
		return nil, ErrClosed
	}
	if aead != nil {
		return aead, nil
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.key == nil {
		return nil, ErrClosed
	}
	if aead := s.open[k]; aead != nil {
		return aead, nil
	}
	aead, err := s.derive(k, cipher.NewGCMWithRandomNonce)
	if err != nil {
		return nil, err
	}
	if len(s.order) >= maxOpenKeys {
		delete(s.open, s.order[0])
		s.order = s.order[1:]
	}
	s.open[k], s.order = aead, append(s.order, k)
	return aead, nil
}

// derive makes a subkey and its AEAD; the caller holds mu.
func (s *Sealer) derive(k openKey, mode func(cipher.Block) (cipher.AEAD, error)) (aead cipher.AEAD, err error) {
	erase.Do(func() {
		var block cipher.Block
		if block, err = s.subkey(k); err == nil {
			aead, err = mode(block)
		}
	})
	return aead, err
}

func (s *Sealer) subkey(k openKey) (cipher.Block, error) {
	if k.label == "" || len(k.label) > MaxLabel {
		return nil, fmt.Errorf("sealing label must be 1 to %d bytes long, not %d", MaxLabel, len(k.label))
	}
	key, err := hkdf.Key(sha256.New, s.key, k.salt[:], k.suite.info()+k.label, KeyLen)
	if err != nil {
		return nil, err
	}
	defer clear(key)
	return aes.NewCipher(key)
}

// aad joins header and the caller's AAD in a reused buffer.
func (s *Sealer) aad(header, aad []byte) *[]byte {
	full := s.aads.Get().(*[]byte)
	*full = append(append((*full)[:0], header...), aad...)
	return full
}

// FileAAD is the AAD of a sealed file, as docs/formats.md has it.
func FileAAD(clusterID string, incarnation uint64, nodeID, name string) []byte {
	b := lp.Append(nil, []byte(clusterID))
	b = lp.Append(b, binary.BigEndian.AppendUint64(nil, incarnation))
	b = lp.Append(b, []byte(nodeID))
	b = lp.Append(b, []byte("file"))
	return lp.Append(b, []byte(name))
}
