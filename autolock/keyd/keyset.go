package keyd

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"errors"
	"io"
	"time"

	"github.com/awnumar/memguard"

	"github.com/redoubt-cluster/redoubt/autolock"
	"github.com/redoubt-cluster/redoubt/autolock/keyd/keydpb"
	"github.com/redoubt-cluster/redoubt/internal/ident"
)

// keyset is what makes the cluster: every manager's keyd holds the same. Its
// secret parts are slices of one buffer of locked memory. keysetfile.go has how
// it is written.
type keyset struct {
	buf       *memguard.LockedBuffer
	clusterID string
	epoch     uint64 // grows by one with each rotation

	root *x509.Certificate // signs issuing CAs
	// While the root is being replaced there are two, and other is the one that
	// does not sign; nil otherwise.
	other       *x509.Certificate
	formerRoots []*x509.Certificate // newest first
	cross       []*x509.Certificate // of one of the two roots by the other

	issuing  *x509.Certificate   // signs nodes
	workload *x509.Certificate   // signs workloads; nil in a keyset of the first format
	former   []*x509.Certificate // issuing CAs of before, newest first
	retired  []byte              // SHA-256 of keyd keys that get no keyset, newest first
	external *external           // signs workers' leaves instead of issuing; nil: nobody does

	rootKey, otherKey, issuingKey, workloadKey []byte // P-256 scalars

	recordSeed []byte // Ed25519 seed
	audit      []byte // audit key
	tokenKey   []byte // P-256 scalar: signs workloads' tokens; nil as workload is

	// The secrets master, with the epoch that made it, and those of before that
	// something is still wrapped by, newest first.
	master        epochKey
	formerMasters []epochKey

	records   ed25519.PublicKey
	recipient []byte // of the secrets master
	orderKey  []byte // verifies orders to an external CA: SubjectPublicKeyInfo
}

// epochKey is a symmetric key and the epoch of the keyset that it came with.
type epochKey struct {
	epoch uint64
	key   []byte
}

// newKeyset makes a cluster.
func newKeyset(now time.Time) (*keyset, error) {
	k := &keyset{clusterID: ident.New(), epoch: 1}
	var err error
	if k.root, k.rootKey, err = newCA(k.clusterID, "root", now, rootLife, nil, nil); err != nil {
		return nil, err
	}
	defer clear(k.rootKey)
	return k.renewed(now)
}

// renewed makes everything below the roots anew in a keyset that is being made,
// and moves it into locked memory.
func (k *keyset) renewed(now time.Time) (_ *keyset, err error) {
	if k.issuing, k.issuingKey, err = newCA(k.clusterID, "issuing", now, issuingLife, k.root, k.rootKey); err != nil {
		return nil, err
	}
	defer clear(k.issuingKey)
	if k.workload, k.workloadKey, err = newCA(k.clusterID, "workload", now, issuingLife, k.root, k.rootKey); err != nil {
		return nil, err
	}
	defer clear(k.workloadKey)
	if k.tokenKey, err = newScalar(); err != nil {
		return nil, err
	}
	defer clear(k.tokenKey)
	var fresh [3 * autolock.KeyLen]byte
	defer clear(fresh[:])
	rand.Read(fresh[:])
	k.recordSeed, k.audit = fresh[:32], fresh[32:64]
	k.master = epochKey{k.epoch, fresh[64:]}
	return k.pack()
}

// describeMasters tells what secrets are sealed to.
func (k *keyset) describeMasters(st *keydpb.StatusResponse) {
	st.SecretsRecipient, st.SecretsEpoch = k.recipient, k.master.epoch
	for _, m := range k.formerMasters {
		st.FormerMasters = append(st.FormerMasters, m.epoch)
	}
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
