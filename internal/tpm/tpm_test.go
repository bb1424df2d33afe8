package tpm_test

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"math/big"
	"sync"
	"testing"
	"time"

	"github.com/redoubt-cluster/redoubt/internal/tpm"
	"github.com/redoubt-cluster/redoubt/internal/tpm/tpmtest"
)

func open(t testing.TB, d *tpmtest.Device) *tpm.TPM {
	t.Helper()
	p, err := tpm.Open(d.Socket)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { p.Close() })
	return p
}

func must[T any](t testing.TB) func(T, error) T {
	return func(v T, err error) T {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
}

// TestSeal: what one TPM sealed opens there alone, for the same use, and only
// while the registers that were named are as they were.
func TestSeal(t *testing.T) {
	t.Parallel()
	ctx := context.Background()
	here, there := tpmtest.New(t), tpmtest.New(t)
	a, b := open(t, here), open(t, there)
	secret, use := bytes.Repeat([]byte{7}, 32), []byte("use")
	bound := must[[]byte](t)(a.Seal(ctx, []int{7, 11}, secret, use))
	free := must[[]byte](t)(a.Seal(ctx, nil, secret, use))
	for _, blob := range [][]byte{bound, free} {
		if got := must[[]byte](t)(a.Unseal(ctx, blob, use)); !bytes.Equal(got, secret) {
			t.Fatalf("%x", got)
		}
		if _, err := a.Unseal(ctx, blob, []byte("other")); !errors.Is(err, tpm.ErrAuth) {
			t.Errorf("another use: %v", err)
		}
		if _, err := b.Unseal(ctx, blob, use); !errors.Is(err, tpm.ErrBlob) {
			t.Errorf("another TPM: %v", err)
		}
		for i := 0; i < len(blob); i += 5 {
			bad := bytes.Clone(blob)
			bad[i] ^= 1
			if got, err := a.Unseal(ctx, bad, use); err == nil {
				t.Fatalf("byte %d of %d flipped: opened to %x", i, len(blob), got)
			}
		}
		for _, bad := range [][]byte{nil, blob[:len(blob)-1], append(bytes.Clone(blob), 0), make([]byte, tpm.MaxBlob+1)} {
			if _, err := a.Unseal(ctx, bad, use); !errors.Is(err, tpm.ErrBlob) {
				t.Errorf("%d bytes: %v", len(bad), err)
			}
		}
	}
	a.Close()
	here.Extend(11, sha256.Sum256([]byte("another boot loader")))
	a = open(t, here)
	if _, err := a.Unseal(ctx, bound, use); !errors.Is(err, tpm.ErrPCRs) {
		t.Errorf("other registers: %v", err)
	}
	must[[]byte](t)(a.Unseal(ctx, free, use))
	a.Close()
	// The machine is switched off and on: registers begin anew.
	here.Stop()
	here.Start()
	a = open(t, here)
	must[[]byte](t)(a.Unseal(ctx, bound, use))
	must[[]byte](t)(a.Unseal(ctx, free, use))
}

// TestSealBounds: what no TPM takes, or what means nothing, is refused before it
// is asked.
func TestSealBounds(t *testing.T) {
	t.Parallel()
	p := open(t, tpmtest.New(t))
	for name, f := range map[string]func() ([]byte, error){
		"empty":     func() ([]byte, error) { return p.Seal(t.Context(), nil, nil, nil) },
		"long":      func() ([]byte, error) { return p.Seal(t.Context(), nil, make([]byte, tpm.MaxSecret+1), nil) },
		"long word": func() ([]byte, error) { return p.Seal(t.Context(), nil, []byte{1}, make([]byte, tpm.MaxAuth+1)) },
		"register":  func() ([]byte, error) { return p.Seal(t.Context(), []int{24}, []byte{1}, nil) },
		"twice":     func() ([]byte, error) { return p.Seal(t.Context(), []int{7, 7}, []byte{1}, nil) },
		"order":     func() ([]byte, error) { return p.Seal(t.Context(), []int{7, 4}, []byte{1}, nil) },
	} {
		if _, err := f(); err == nil {
			t.Errorf("%s: sealed", name)
		}
	}
	must[[]byte](t)(p.Seal(t.Context(), []int{0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19, 20, 21, 22, 23}, make([]byte, tpm.MaxSecret), make([]byte, tpm.MaxAuth)))
}

// TestIdentity: keys stay the same over restarts, differ between TPMs, and the
// maker's certificate is of the EK.
func TestIdentity(t *testing.T) {
	t.Parallel()
	plain, certified := tpmtest.New(t), tpmtest.Certified(t)
	p := open(t, plain)
	first := must[tpm.Identity](t)(p.Identity(t.Context()))
	p.Close()
	plain.Stop()
	plain.Start()
	again := must[tpm.Identity](t)(open(t, plain).Identity(t.Context()))
	if !bytes.Equal(first.EK, again.EK) || !bytes.Equal(first.AK, again.AK) {
		t.Error("keys changed with a restart")
	}
	theirs := open(t, certified)
	other := must[tpm.Identity](t)(theirs.Identity(t.Context()))
	if bytes.Equal(first.EK, other.EK) || bytes.Equal(first.AK, other.AK) {
		t.Error("two TPMs have the same keys")
	}
	if first.Certificate != nil || other.Certificate == nil {
		t.Fatalf("certificates: %x, %x", first.Certificate, other.Certificate)
	}
	now := time.Now()
	hash := must[[]byte](t)(tpm.EKHash(first.EK))
	ca := tpm.Trust{CAs: []*x509.Certificate{certified.CA}}
	for name, tc := range map[string]struct {
		trust tpm.Trust
		id    tpm.Identity
		ok    bool
	}{
		"allowed":              {tpm.Trust{Allowed: [][]byte{make([]byte, 32), hash}}, first, true},
		"another is allowed":   {tpm.Trust{Allowed: [][]byte{hash}}, other, false},
		"nobody is trusted":    {tpm.Trust{}, first, false},
		"by its maker":         {ca, other, true},
		"of no maker":          {ca, first, false},
		"by another maker":     {tpm.Trust{CAs: []*x509.Certificate{anotherMaker(t)}}, other, false},
		"another's credential": {ca, tpm.Identity{EK: first.EK, Certificate: other.Certificate}, false},
		"damaged certificate":  {ca, tpm.Identity{EK: other.EK, Certificate: other.Certificate[:100]}, false},
		"an AK as EK":          {tpm.Trust{Allowed: [][]byte{hash}}, tpm.Identity{EK: first.AK}, false},
	} {
		if err := tc.trust.CheckEK(tc.id.EK, tc.id.Certificate, now); (err == nil) != tc.ok {
			t.Errorf("%s: %v", name, err)
		}
	}
	if err := ca.CheckEK(other.EK, other.Certificate, now.AddDate(-40, 0, 0)); err == nil {
		t.Error("a certificate of the future is trusted")
	}
	credential(t, theirs) // its EK is an RSA key
}

// anotherMaker is a CA with the name of swtpm's.
func anotherMaker(t *testing.T) *x509.Certificate {
	key := must[*ecdsa.PrivateKey](t)(ecdsa.GenerateKey(elliptic.P256(), rand.Reader))
	c := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "swtpm-localca"}, NotAfter: time.Now().Add(time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign}
	return must[*x509.Certificate](t)(x509.ParseCertificate(must[[]byte](t)(x509.CreateCertificate(rand.Reader, c, c, key.Public(), key))))
}

// TestCredential: a challenge opens only where EK and AK are in one TPM.
func TestCredential(t *testing.T) {
	t.Parallel()
	credential(t, open(t, tpmtest.New(t)))
}

func credential(t *testing.T, p *tpm.TPM) {
	other := open(t, tpmtest.New(t))
	id, theirs := must[tpm.Identity](t)(p.Identity(t.Context())), must[tpm.Identity](t)(other.Identity(t.Context()))
	secret := bytes.Repeat([]byte{9}, tpm.SecretLen)
	c := must[tpm.Credential](t)(tpm.MakeCredential(id.EK, id.AK, secret))
	if got := must[[]byte](t)(p.Activate(t.Context(), c)); !bytes.Equal(got, secret) {
		t.Fatalf("%x", got)
	}
	if _, err := other.Activate(t.Context(), c); !errors.Is(err, tpm.ErrCredential) {
		t.Errorf("another TPM: %v", err)
	}
	// One's own EK with the AK of another.
	foreign := must[tpm.Credential](t)(tpm.MakeCredential(id.EK, theirs.AK, secret))
	for _, who := range []*tpm.TPM{p, other} {
		if _, err := who.Activate(t.Context(), foreign); !errors.Is(err, tpm.ErrCredential) {
			t.Errorf("EK and AK of two TPMs: %v", err)
		}
	}
	for _, bad := range []tpm.Credential{{}, {Blob: c.Blob}, {Blob: c.Blob[:10], Secret: c.Secret}, {Blob: make([]byte, 5000), Secret: c.Secret}, {Blob: c.Secret, Secret: c.Blob}} {
		if _, err := p.Activate(t.Context(), bad); !errors.Is(err, tpm.ErrCredential) {
			t.Errorf("%d and %d bytes: %v", len(bad.Blob), len(bad.Secret), err)
		}
	}
	if _, err := tpm.MakeCredential(id.EK, id.EK, secret); err == nil {
		t.Error("a credential for an EK as AK")
	}
	if _, err := tpm.MakeCredential(id.AK, id.AK, secret); err == nil {
		t.Error("a credential for an AK as EK")
	}
}

// TestEvidence: a quote is of one TPM, of one request, of the registers shown.
func TestEvidence(t *testing.T) {
	t.Parallel()
	d := tpmtest.New(t)
	p, other := open(t, d), open(t, tpmtest.New(t))
	ctx := t.Context()
	id, theirs := must[tpm.Identity](t)(p.Identity(ctx)), must[tpm.Identity](t)(other.Identity(ctx))
	s := tpm.Statement{Purpose: "join", Text: []byte("request"), Secret: []byte("secret")}
	all := []int{0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 14}
	for _, pcrs := range [][]int{nil, {7}, all} {
		e := must[tpm.Evidence](t)(p.Attest(ctx, s, pcrs))
		if err := tpm.CheckEvidence(id.AK, s, pcrs, e); err != nil {
			t.Fatal(err)
		}
		values := must[[][]byte](t)(p.ReadPCRs(ctx, pcrs))
		if len(values) != len(pcrs) || len(pcrs) > 0 && !bytes.Equal(values[0], e.Values[0]) {
			t.Errorf("%d values", len(values))
		}
		refused := func(name string, ak []byte, s tpm.Statement, pcrs []int, e tpm.Evidence) {
			t.Helper()
			if err := tpm.CheckEvidence(ak, s, pcrs, e); err == nil {
				t.Errorf("%s is believed (registers %v)", name, pcrs)
			}
		}
		refused("another AK", theirs.AK, s, pcrs, e)
		refused("an EK as AK", id.EK, s, pcrs, e)
		refused("another purpose", id.AK, tpm.Statement{Purpose: "renew", Text: s.Text, Secret: s.Secret}, pcrs, e)
		refused("another request", id.AK, tpm.Statement{Purpose: s.Purpose, Text: []byte("requests"), Secret: s.Secret}, pcrs, e)
		refused("another secret", id.AK, tpm.Statement{Purpose: s.Purpose, Text: s.Text}, pcrs, e)
		refused("other registers", id.AK, s, []int{8}, e)
		refused("a quote of another TPM", id.AK, s, pcrs, must[tpm.Evidence](t)(other.Attest(ctx, s, pcrs)))
		for i := range e.Quote {
			bad := e
			bad.Quote = bytes.Clone(e.Quote)
			bad.Quote[i] ^= 1
			refused("a changed quote", id.AK, s, pcrs, bad)
		}
		for i := range e.Signature {
			bad := e
			bad.Signature = bytes.Clone(e.Signature)
			bad.Signature[i] ^= 1
			refused("a changed signature", id.AK, s, pcrs, bad)
		}
		refused("a longer quote", id.AK, s, pcrs, tpm.Evidence{Quote: append(bytes.Clone(e.Quote), 0), Signature: e.Signature, Values: e.Values})
		refused("a longer signature", id.AK, s, pcrs, tpm.Evidence{Quote: e.Quote, Signature: append(bytes.Clone(e.Signature), 0), Values: e.Values})
		refused("nothing", id.AK, s, pcrs, tpm.Evidence{Values: e.Values})
		if len(pcrs) > 0 {
			refused("no values", id.AK, s, pcrs, tpm.Evidence{Quote: e.Quote, Signature: e.Signature})
			bad := e
			bad.Values = append([][]byte{make([]byte, 31)}, e.Values[1:]...)
			refused("a short value", id.AK, s, pcrs, bad)
			one := sha256.Sum256(nil)
			bad.Values = append([][]byte{one[:]}, e.Values[1:]...)
			refused("another value", id.AK, s, pcrs, bad)
		}
	}
}

// TestSharedDevice: an object that somebody left in a TPM without a resource
// manager takes no place from the next one, and many callers wait for each other.
func TestSharedDevice(t *testing.T) {
	t.Parallel()
	d := tpmtest.New(t)
	for range 5 { // a TPM has three places
		tpm.Leave(t, d.Socket)
	}
	p := open(t, d)
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			blob, err := p.Seal(t.Context(), nil, []byte("x"), nil)
			if err == nil {
				_, err = p.Unseal(t.Context(), blob, nil)
			}
			if err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	p.Close()
	if _, err := p.Identity(t.Context()); !errors.Is(err, tpm.ErrDevice) {
		t.Errorf("after its end: %v", err)
	}
}

func TestOpenRefuses(t *testing.T) {
	t.Parallel()
	for _, path := range []string{"/nonexistent", "/etc/hostname", t.TempDir(), "/dev/null"} {
		if p, err := tpm.Open(path); err == nil {
			p.Close()
			t.Errorf("%s was opened as a TPM", path)
		}
	}
	d := tpmtest.New(t)
	p := open(t, d)
	d.Stop()
	if _, err := p.Identity(t.Context()); !errors.Is(err, tpm.ErrDevice) {
		t.Errorf("a TPM that is gone: %v", err)
	}
}

// TestNoAnswer: nobody waits longer than he said for a TPM that does not answer. One
// that answers again is used again.
func TestNoAnswer(t *testing.T) {
	t.Parallel()
	d := tpmtest.New(t)
	p := open(t, d)
	blob := must[[]byte](t)(p.Seal(t.Context(), nil, []byte("x"), nil))
	d.Pause()
	for range 2 { // the second waits for its turn
		ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
		if _, err := p.Unseal(ctx, blob, nil); !errors.Is(err, tpm.ErrDevice) {
			t.Errorf("a TPM that does not answer: %v", err)
		}
		cancel()
	}
	gone, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := p.Identity(gone); !errors.Is(err, context.Canceled) {
		t.Errorf("who does not wait any more: %v", err)
	}
	d.Resume()
	if got := must[[]byte](t)(p.Unseal(t.Context(), blob, nil)); string(got) != "x" {
		t.Errorf("%q", got)
	}
}
