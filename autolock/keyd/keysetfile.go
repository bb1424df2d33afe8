package keyd

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/sha256"
	"crypto/x509"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"

	"github.com/awnumar/memguard"

	"github.com/redoubt-cluster/redoubt/autolock"
	"github.com/redoubt-cluster/redoubt/internal/ident"
	"github.com/redoubt-cluster/redoubt/internal/lp"
	"github.com/redoubt-cluster/redoubt/pki/profile"
	"github.com/redoubt-cluster/redoubt/secrets/seal"
)

// A keyset begins with its format; docs/formats.md has each. The first had
// neither epoch nor history, one CA for all, and is read as epoch 1. The third is
// the second with an external CA, and written where there is one.
const (
	keysetMagicV3 = "RDTY\x03"
	keysetMagic   = "RDTY\x02"
	keysetMagicV1 = "RDTY\x01"
)

const scalarLen = 32

// parts are what a keyset consists of, in the order in which it is written.
func (k *keyset) parts() [][]byte {
	parts := [][]byte{
		[]byte(k.clusterID), epochBytes(k.epoch),
		k.root.Raw, rawOf(k.other), rawsOf(k.formerRoots), rawsOf(k.cross),
		k.issuing.Raw, k.workload.Raw, rawsOf(k.former), k.retired,
		k.rootKey, k.otherKey, k.issuingKey, k.workloadKey,
		k.recordSeed, k.audit, k.tokenKey,
		epochBytes(k.master.epoch), k.master.key,
	}
	for _, m := range k.formerMasters {
		parts = append(parts, epochBytes(m.epoch), m.key)
	}
	if k.external != nil {
		parts = slices.Insert(parts, 2, k.external.encode())
	}
	return parts
}

// magic is of the oldest format that can say what the keyset is.
func (k *keyset) magic() string {
	if k.external != nil {
		return keysetMagicV3
	}
	return keysetMagic
}

// pack writes a keyset that was put together from parts into locked memory, and
// reads it back. The parts remain their owner's to wipe.
func (k *keyset) pack() (*keyset, error) {
	parts := k.parts()
	n := len(k.magic())
	for _, p := range parts {
		n += 4 + len(p)
	}
	buf := memguard.NewBuffer(n)
	out := append(buf.Bytes()[:0], k.magic()...) // n bytes are exactly enough: append stays in the buffer
	for _, p := range parts {
		out = lp.Append(out, p)
	}
	return openKeyset(buf)
}

func epochBytes(epoch uint64) []byte { return binary.BigEndian.AppendUint64(nil, epoch) }

func rawOf(c *x509.Certificate) []byte {
	if c == nil {
		return nil
	}
	return c.Raw
}

func rawsOf(certs []*x509.Certificate) (out []byte) {
	for _, c := range certs {
		out = lp.Append(out, c.Raw)
	}
	return out
}

// keysetParts are a keyset's certificates as they are written.
type keysetParts struct {
	root, other, formerRoots, cross, issuing, workload, former, external []byte
}

// openKeyset reads a keyset out of buf, which it takes over, and checks that it
// is whole: the keys are those of the certificates, and each certificate is
// signed by whom it should be.
func openKeyset(buf *memguard.LockedBuffer) (_ *keyset, err error) {
	defer func() {
		if err != nil {
			buf.Destroy()
			err = fmt.Errorf("keyset: %w", err)
		}
	}()
	buf.Freeze()
	k := &keyset{buf: buf}
	var p keysetParts
	switch all := buf.Bytes(); {
	case bytes.HasPrefix(all, []byte(keysetMagicV3)):
		err = k.read(&lpReader{rest: all[len(keysetMagicV3):]}, &p, true)
	case bytes.HasPrefix(all, []byte(keysetMagic)):
		err = k.read(&lpReader{rest: all[len(keysetMagic):]}, &p, false)
	case bytes.HasPrefix(all, []byte(keysetMagicV1)):
		err = k.readV1(&lpReader{rest: all[len(keysetMagicV1):]}, &p)
	default:
		err = errors.New("not a keyset")
	}
	if err != nil {
		return nil, err
	}
	if !ident.Valid(k.clusterID) {
		return nil, errors.New("malformed cluster id")
	}
	if k.epoch == 0 || len(k.retired)%sha256.Size != 0 || len(k.retired) > maxRetired*sha256.Size {
		return nil, errEncoding
	}
	if err := k.check(&p); err != nil {
		return nil, err
	}
	private := ed25519.NewKeyFromSeed(k.recordSeed)
	defer clear(private)
	k.records = bytes.Clone(private[ed25519.SeedSize:])
	master, err := seal.NewMaster(k.clusterID, k.master.epoch, k.master.key)
	if err != nil {
		return nil, err
	}
	k.recipient = master.Recipient()
	if k.orderKey, err = k.orderPublic(); err != nil {
		return nil, err
	}
	return k, nil
}

func (k *keyset) read(r *lpReader, p *keysetParts, external bool) error {
	k.clusterID, k.epoch = string(r.fixed(ident.Len)), r.epoch()
	if external {
		if p.external = bytes.Clone(r.part()); len(p.external) == 0 {
			return errEncoding
		}
	}
	for _, to := range []*[]byte{&p.root, &p.other, &p.formerRoots, &p.cross, &p.issuing, &p.workload, &p.former, &k.retired} {
		*to = bytes.Clone(r.part())
	}
	k.rootKey = r.fixed(scalarLen)
	if len(p.other) > 0 {
		k.otherKey = r.fixed(scalarLen)
	} else {
		r.fixed(0)
	}
	k.issuingKey, k.workloadKey = r.fixed(scalarLen), r.fixed(scalarLen)
	k.recordSeed, k.audit, k.tokenKey = r.fixed(ed25519.SeedSize), r.fixed(autolock.KeyLen), r.fixed(scalarLen)
	k.master = epochKey{r.epoch(), r.fixed(autolock.KeyLen)}
	below := k.epoch + 1
	for m := k.master; r.err == nil; m = k.formerMasters[len(k.formerMasters)-1] {
		if m.epoch == 0 || m.epoch >= below || len(k.formerMasters) > maxFormer {
			return errEncoding
		}
		if below = m.epoch; len(r.rest) == 0 {
			break
		}
		k.formerMasters = append(k.formerMasters, epochKey{r.epoch(), r.fixed(autolock.KeyLen)})
	}
	return r.end()
}

func (k *keyset) readV1(r *lpReader, p *keysetParts) error {
	k.clusterID, k.epoch = string(r.fixed(ident.Len)), 1
	p.root, p.issuing = bytes.Clone(r.part()), bytes.Clone(r.part())
	k.rootKey, k.issuingKey = r.fixed(scalarLen), r.fixed(scalarLen)
	k.recordSeed = r.fixed(ed25519.SeedSize)
	k.master, k.audit = epochKey{1, r.fixed(autolock.KeyLen)}, r.fixed(autolock.KeyLen)
	return r.end()
}

// check parses the certificates and holds them and the keys against each other.
func (k *keyset) check(p *keysetParts) (err error) {
	if k.root, err = checkCA(p.root, k.rootKey, nil); err != nil {
		return fmt.Errorf("root: %w", err)
	}
	if len(p.other) > 0 {
		if k.other, err = checkCA(p.other, k.otherKey, nil); err != nil {
			return fmt.Errorf("the other root: %w", err)
		}
		if k.other.Equal(k.root) || bytes.Equal(k.other.RawSubjectPublicKeyInfo, k.root.RawSubjectPublicKeyInfo) {
			return errors.New("the other root: it is the same one")
		}
	}
	if k.formerRoots, err = readCAs(p.formerRoots, nil); err != nil {
		return fmt.Errorf("former roots: %w", err)
	}
	if k.cross, err = readCAs(p.cross, append(k.roots(), k.formerRoots...)); err != nil {
		return fmt.Errorf("cross certificates: %w", err)
	}
	if k.issuing, err = checkCA(p.issuing, k.issuingKey, k.root); err != nil {
		return fmt.Errorf("issuing CA: %w", err)
	}
	if k.former, err = readCAs(p.former, append(k.roots(), k.formerRoots...)); err != nil {
		return fmt.Errorf("former issuing CAs: %w", err)
	}
	if p.external != nil {
		if k.external, err = readExternal(p.external, k.root); err != nil {
			return fmt.Errorf("external CA: %w", err)
		}
	}
	if k.workloadKey == nil { // of the first format
		return nil
	}
	if k.workload, err = checkCA(p.workload, k.workloadKey, k.root); err != nil {
		return fmt.Errorf("workload CA: %w", err)
	}
	key, err := ecdsa.ParseRawPrivateKey(elliptic.P256(), k.tokenKey)
	if err != nil {
		return errors.New("token key: malformed key")
	}
	wipeECDSA(key)
	return nil
}

// roots are those whose keys are there, the one that signs first.
func (k *keyset) roots() []*x509.Certificate {
	if k.other == nil {
		return []*x509.Certificate{k.root}
	}
	return []*x509.Certificate{k.root, k.other}
}

// readCAs parses a list of CA certificates, each of which one of these parents
// signed, or without parents itself.
func readCAs(list []byte, parents []*x509.Certificate) (out []*x509.Certificate, _ error) {
	r := lpReader{rest: list}
	for len(r.rest) > 0 && r.err == nil {
		der := r.part()
		if r.err != nil {
			break
		}
		cert, err := x509.ParseCertificate(der)
		switch {
		case err != nil || !cert.IsCA || len(der) > profile.MaxCert:
			return nil, errors.New("malformed certificate")
		case len(out) == maxFormer:
			return nil, fmt.Errorf("more than %d certificates", maxFormer)
		case parents == nil && cert.CheckSignatureFrom(cert) != nil || parents != nil && !signedByOne(cert, parents):
			return nil, errors.New("a certificate is not signed as it should be")
		}
		out = append(out, cert)
	}
	return out, r.end()
}

func signedByOne(cert *x509.Certificate, parents []*x509.Certificate) bool {
	for _, p := range parents {
		if cert.CheckSignatureFrom(p) == nil {
			return true
		}
	}
	return false
}
