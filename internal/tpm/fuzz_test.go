package tpm_test

import (
	"bytes"
	"testing"
	"time"

	"github.com/redoubt-cluster/redoubt/internal/tpm"
	"github.com/redoubt-cluster/redoubt/internal/tpm/tpmtest"
)

// seeds are what a TPM made.
func seeds(f *testing.F) (tpm.Identity, tpm.Evidence) {
	p := open(f, tpmtest.New(f))
	id := must[tpm.Identity](f)(p.Identity(f.Context()))
	return id, must[tpm.Evidence](f)(p.Attest(f.Context(), tpm.Statement{Purpose: "p"}, []int{7}))
}

// FuzzKeys: whatever is sent as keys ends nothing, and what is taken for a key is
// taken in one form only.
func FuzzKeys(f *testing.F) {
	id, _ := seeds(f)
	f.Add(id.EK, id.AK, []byte{0x30, 0})
	f.Add(id.AK, id.EK, []byte(nil))
	f.Add(append(bytes.Clone(id.EK), 0), id.AK[:40], []byte{0x30})
	f.Fuzz(func(t *testing.T, ek, ak, cert []byte) {
		hash, err := tpm.EKHash(ek)
		if err == nil && len(ek) != len(id.EK) && len(ek) < 300 {
			t.Errorf("an EK of %d bytes", len(ek))
		}
		if (tpm.Trust{Allowed: [][]byte{hash}}).CheckEK(ek, cert, time.Unix(0, 0)) == nil && err != nil {
			t.Error("a malformed EK is trusted")
		}
		name, aerr := tpm.CheckAK(ak)
		if aerr == nil && (len(name) != tpm.NameLen || len(ak) != len(id.AK)) {
			t.Errorf("an AK of %d bytes", len(ak))
		}
		if _, cerr := tpm.MakeCredential(ek, ak, make([]byte, tpm.SecretLen)); cerr == nil && (err != nil || aerr != nil) {
			t.Error("a credential for malformed keys")
		}
	})
}

// FuzzEvidence: nothing but what the TPM signed is believed.
func FuzzEvidence(f *testing.F) {
	id, e := seeds(f)
	f.Add(e.Quote, e.Signature, e.Values[0])
	f.Add(e.Signature, e.Quote, []byte(nil))
	f.Fuzz(func(t *testing.T, quote, signature, value []byte) {
		got := tpm.Evidence{Quote: quote, Signature: signature, Values: [][]byte{value}}
		if tpm.CheckEvidence(id.AK, tpm.Statement{Purpose: "p"}, []int{7}, got) == nil &&
			(!bytes.Equal(quote, e.Quote) || !bytes.Equal(value, e.Values[0])) {
			t.Error("what no TPM said is believed")
		}
	})
}
