package profile

import (
	"crypto/ecdsa"
	"crypto/sha256"
	"crypto/x509"
	"errors"
	"fmt"
	"time"
	"unicode/utf8"

	"google.golang.org/protobuf/proto"

	"github.com/redoubt-cluster/redoubt/internal/ident"
	"github.com/redoubt-cluster/redoubt/internal/lp"
	"github.com/redoubt-cluster/redoubt/internal/strictpb"
	"github.com/redoubt-cluster/redoubt/pki/profile/profilepb"
)

const (
	batchLabel  = "redoubt workload batch v1\x00"
	bundleLabel = "redoubt workload bundle v1\x00"
)

// Bounds of a batch: items of one, its bytes, audiences of a token, bytes of one.
const (
	MaxBatchItems = 128
	MaxBatch      = 192 << 10
	MaxAudiences  = 8
	MaxAudience   = 256
)

// maxBundleKeys bounds the keys of a bundle, and maxBundle its bytes.
const (
	maxBundleKeys = 8
	maxBundle     = 4 << 10
)

// ParseBatch reads what a node asks for its tasks, and holds it against all bounds
// that say nothing of who asks, when and where.
func ParseBatch(serialized []byte) (*profilepb.WorkloadBatch, error) {
	if len(serialized) > MaxBatch {
		return nil, fmt.Errorf("a batch has %d bytes: at most %d are accepted", len(serialized), MaxBatch)
	}
	b := &profilepb.WorkloadBatch{}
	if err := proto.Unmarshal(serialized, b); err != nil || strictpb.Unknown(b) != "" {
		return nil, errors.New("a batch is malformed")
	}
	if n := len(b.GetItems()); n == 0 || n > MaxBatchItems {
		return nil, fmt.Errorf("a batch has %d items: 1 to %d are accepted", n, MaxBatchItems)
	}
	for i, item := range b.GetItems() {
		if err := checkItem(item); err != nil {
			return nil, fmt.Errorf("item %d of a batch: %w", i, err)
		}
	}
	return b, nil
}

func checkItem(item *profilepb.WorkloadItem) error {
	if !ident.Valid(item.GetTaskId()) {
		return errors.New("it names no task")
	}
	if _, _, _, err := ParseServiceURI(item.GetIdentity()); err != nil {
		return err
	}
	most := MaxSVIDLife
	switch d := item.GetDocument().(type) {
	case *profilepb.WorkloadItem_Csr:
		if len(d.Csr) == 0 || len(d.Csr) > MaxCSR {
			return fmt.Errorf("a certificate request has 1 to %d bytes", MaxCSR)
		}
	case *profilepb.WorkloadItem_Audience:
		most = MaxTokenLife
		if err := CheckAudience(d.Audience.GetNames()); err != nil {
			return err
		}
	default:
		return errors.New("it asks for nothing")
	}
	if life := item.GetLife(); life < int64(MinSVIDLife/time.Second) || life > int64(most/time.Second) {
		return fmt.Errorf("a life of %d s is out of bounds: %s to %s", life, MinSVIDLife, most)
	}
	return nil
}

// CheckAudience returns an error unless a token may be for these.
func CheckAudience(names []string) error {
	if n := len(names); n == 0 || n > MaxAudiences {
		return fmt.Errorf("a token is for 1 to %d audiences, not %d", MaxAudiences, n)
	}
	seen := map[string]bool{}
	for _, n := range names {
		switch {
		case n == "" || len(n) > MaxAudience || !utf8.ValidString(n):
			return fmt.Errorf("an audience has 1 to %d bytes of UTF-8", MaxAudience)
		case seen[n]:
			return errors.New("an audience is named twice")
		}
		seen[n] = true
	}
	return nil
}

// BatchInput is what the leaf in use signs over a batch.
func BatchInput(batch []byte) []byte { return lp.Append([]byte(batchLabel), batch) }

// CheckBatch verifies a batch's proof with leaf's public key.
func CheckBatch(leaf *x509.Certificate, batch, proof []byte) error {
	digest := sha256.Sum256(BatchInput(batch))
	return checkECDSA(leaf.PublicKey, digest[:], proof, "the proof over a batch does not verify")
}

func checkECDSA(public any, digest, signature []byte, otherwise string) error {
	key, ok := public.(*ecdsa.PublicKey)
	if !ok || !ecdsa.VerifyASN1(key, digest, signature) {
		return errors.New(otherwise)
	}
	return nil
}

// BundleInput is what a CA signs over a bundle.
func BundleInput(bundle []byte) []byte { return lp.Append([]byte(bundleLabel), bundle) }

// OpenBundle reads a bundle that the CA signed. The caller has verified the CA.
func OpenBundle(ca *x509.Certificate, signed *profilepb.SignedWorkloadBundle) (*profilepb.WorkloadBundle, error) {
	if len(signed.GetBundle()) > maxBundle {
		return nil, fmt.Errorf("a bundle has more than %d bytes", maxBundle)
	}
	digest := sha256.Sum256(BundleInput(signed.GetBundle()))
	if err := checkECDSA(ca.PublicKey, digest[:], signed.GetSignature(), "the bundle's signature does not verify"); err != nil {
		return nil, err
	}
	b := &profilepb.WorkloadBundle{}
	if err := proto.Unmarshal(signed.GetBundle(), b); err != nil || len(b.GetKeys()) == 0 || len(b.GetKeys()) > maxBundleKeys || !ident.Valid(b.GetClusterId()) {
		return nil, errors.New("the bundle is malformed")
	}
	for _, k := range b.GetKeys() {
		if _, err := ParseBundleKey(k); err != nil {
			return nil, err
		}
	}
	return b, nil
}

// ParseBundleKey reads one key of a bundle, whose name is that of its public half.
func ParseBundleKey(k *profilepb.WorkloadKey) (*ecdsa.PublicKey, error) {
	public, err := x509.ParsePKIXPublicKey(k.GetSpki())
	if err == nil {
		err = checkP256(public)
	}
	if err != nil || k.GetId() != BundleKeyID(k.GetSpki()) {
		return nil, errors.New("the bundle has a malformed key")
	}
	return public.(*ecdsa.PublicKey), nil
}

// BundleKeyID names a token key.
func BundleKeyID(spki []byte) string {
	sum := sha256.Sum256(spki)
	var b [16]byte
	copy(b[:], sum[:])
	return ident.FromBytes(b)
}
