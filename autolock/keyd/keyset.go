package keyd

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/awnumar/memguard"

	"github.com/redoubt-cluster/redoubt/autolock"
	"github.com/redoubt-cluster/redoubt/internal/ident"
	"github.com/redoubt-cluster/redoubt/internal/lp"
)

// A keyset begins with its format. The first had neither epoch nor history and
// is read as epoch 1.
const (
	keysetMagic   = "RDTY\x02"
	keysetMagicV1 = "RDTY\x01"
)

// keyset is what makes the cluster: every manager's keyd holds the same. Its
// secret parts are slices of one buffer of locked memory.
type keyset struct {
	buf       *memguard.LockedBuffer
	clusterID string
	epoch     uint64 // grows by one with each rotation
	root      *x509.Certificate
	issuing   *x509.Certificate
	former    []*x509.Certificate // issuing CAs of before, newest first
	retired   []byte              // SHA-256 of keyd keys that get no keyset, newest first

	rootKey, issuingKey []byte // P-256 scalars
	recordSeed          []byte // Ed25519 seed
	master, audit       []byte // secrets master, audit key

	records ed25519.PublicKey
}

// newKeyset makes a cluster.
func newKeyset(now time.Time) (*keyset, error) {
	clusterID := ident.New()
	root, rootScalar, err := newCA(clusterID, "root", now, rootLife, nil, nil)
	if err != nil {
		return nil, err
	}
	defer clear(rootScalar)
	issuing, issuingScalar, err := newCA(clusterID, "issuing", now, issuingLife, root, rootScalar)
	if err != nil {
		return nil, err
	}
	defer clear(issuingScalar)
	var fresh [3 * autolock.KeyLen]byte
	defer clear(fresh[:])
	rand.Read(fresh[:])

	return packKeyset([]byte(clusterID), epochBytes(1), root.Raw, issuing.Raw, nil, nil,
		rootScalar, issuingScalar, fresh[:32], fresh[32:64], fresh[64:])
}

// packKeyset writes the parts into locked memory and reads them back.
func packKeyset(parts ...[]byte) (*keyset, error) {
	n := len(keysetMagic)
	for _, p := range parts {
		n += 4 + len(p)
	}
	buf := memguard.NewBuffer(n)
	out := append(buf.Bytes()[:0], keysetMagic...) // n bytes are exactly enough: append stays in the buffer
	for _, p := range parts {
		out = lp.Append(out, p)
	}
	return openKeyset(buf)
}

func epochBytes(epoch uint64) []byte { return binary.BigEndian.AppendUint64(nil, epoch) }

// openKeyset reads a keyset out of buf, which it takes over, and checks that it
// is whole: the keys are those of the certificates, and the issuing CA is the
// root's.
func openKeyset(buf *memguard.LockedBuffer) (_ *keyset, err error) {
	defer func() {
		if err != nil {
			buf.Destroy()
		}
	}()
	buf.Freeze()
	rest, ok := bytes.CutPrefix(buf.Bytes(), []byte(keysetMagic))
	first := false
	if !ok {
		if rest, first = bytes.CutPrefix(buf.Bytes(), []byte(keysetMagicV1)); !first {
			return nil, errors.New("keyset: not a keyset")
		}
	}
	r := lpReader{rest: rest}
	k := &keyset{buf: buf, epoch: 1}
	k.clusterID = string(r.fixed(ident.Len))
	if !first {
		if b := r.fixed(8); b != nil && r.err == nil {
			k.epoch = binary.BigEndian.Uint64(b)
		}
	}
	rootDER, issuingDER := bytes.Clone(r.part()), bytes.Clone(r.part())
	var formerDER []byte
	if !first {
		formerDER, k.retired = bytes.Clone(r.part()), bytes.Clone(r.part())
	}
	k.rootKey, k.issuingKey = r.fixed(32), r.fixed(32)
	k.recordSeed = r.fixed(ed25519.SeedSize)
	k.master, k.audit = r.fixed(autolock.KeyLen), r.fixed(autolock.KeyLen)
	if err := r.end(); err != nil {
		return nil, fmt.Errorf("keyset: %w", err)
	}
	if !ident.Valid(k.clusterID) {
		return nil, errors.New("keyset: malformed cluster id")
	}
	if k.root, err = checkCA(rootDER, k.rootKey, nil); err != nil {
		return nil, fmt.Errorf("keyset: root: %w", err)
	}
	if k.issuing, err = checkCA(issuingDER, k.issuingKey, k.root); err != nil {
		return nil, fmt.Errorf("keyset: issuing CA: %w", err)
	}
	if err := k.openHistory(formerDER); err != nil {
		return nil, fmt.Errorf("keyset: %w", err)
	}
	private := ed25519.NewKeyFromSeed(k.recordSeed)
	defer clear(private)
	k.records = bytes.Clone(private[ed25519.SeedSize:])
	return k, nil
}

// signRecord signs with the record-signing key.
func (k *keyset) signRecord(message []byte) []byte {
	private := ed25519.NewKeyFromSeed(k.recordSeed)
	defer clear(private)
	return ed25519.Sign(private, message)
}

func (k *keyset) destroy() {
	if k != nil {
		k.buf.Destroy()
	}
}

// scalarSigner is a P-256 key that stays in locked memory and is parsed for one
// signature at a time.
type scalarSigner struct {
	public *ecdsa.PublicKey
	scalar []byte
}

func (s scalarSigner) Public() crypto.PublicKey { return s.public }

func (s scalarSigner) Sign(rand io.Reader, digest []byte, opts crypto.SignerOpts) ([]byte, error) {
	key, err := ecdsa.ParseRawPrivateKey(elliptic.P256(), s.scalar)
	if err != nil {
		return nil, errors.New("the CA key is damaged")
	}
	defer wipeECDSA(key)
	return key.Sign(rand, digest, opts)
}

// wipeECDSA overwrites the private scalar as far as the type lets us.
func wipeECDSA(key *ecdsa.PrivateKey) {
	//lint:ignore SA1019 there is no other way to reach the scalar, and the key is not used again
	clear(key.D.Bits())
}
