package imagepolicy

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/redoubt-cluster/redoubt/scheduler/imagepolicy/imagepolicytest"
)

var (
	digest = "sha256:" + strings.Repeat("ab", 32)
	other  = "sha256:" + strings.Repeat("cd", 32)
)

// outcome checks that a verdict is a refusal which names the rule and says want, or
// none where want is empty.
func outcome(t *testing.T, what string, err error, want string) {
	t.Helper()
	switch {
	case want == "" && err != nil:
		t.Errorf("%s: %v", what, err)
	case want != "" && (err == nil || !IsRefusal(err) || !strings.Contains(err.Error(), want) || !strings.Contains(err.Error(), "rule app") || strings.Contains(err.Error(), "\n")):
		t.Errorf("%s: %v, want %q", what, err, want)
	}
}

// TestOfSigstore: bundles that sigstore-go v1.1.4 made with sign.Bundle, as cosign
// does.
func TestOfSigstore(t *testing.T) {
	for _, alg := range []string{"p256", "p384", "ed25519", "rsa"} {
		dir := filepath.Join("testdata", "sigstore-go")
		b, err := os.ReadFile(filepath.Join(dir, alg+".bundle.json"))
		if err != nil {
			t.Fatal(err)
		}
		key, err := os.ReadFile(filepath.Join(dir, alg+".pem"))
		if err != nil {
			t.Fatal(err)
		}
		p := parse(t, "format: 1\nsigners:\n  - name: s\n    keys:\n      - |\n        "+imagepolicytest.Indent(string(key), 8)+
			"\nrules:\n  - {name: app, images: [r.example.com/app], signatures: {by: [s]}}\n")
		outcome(t, alg, ruleOf(t, p).Verify(digest, Evidence{Bundles: [][]byte{b}}, time.Now()), "")
		outcome(t, alg+" of another digest", ruleOf(t, p).Verify(other, Evidence{Bundles: [][]byte{b}}, time.Now()), "about another digest")
	}
}

func TestKeys(t *testing.T) {
	s, stranger := imagepolicytest.NewSigner(), imagepolicytest.NewSigner()
	r := ruleOf(t, parse(t, keyPolicy(1, s)))
	good := s.Bundle(digest, imagepolicytest.Sign)
	change := func(f func(map[string]any)) []byte {
		var m map[string]any
		if err := json.Unmarshal(good, &m); err != nil {
			t.Fatal(err)
		}
		f(m)
		b, err := json.Marshal(m)
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	envelope := func(m map[string]any) map[string]any { return m["dsseEnvelope"].(map[string]any) }
	var many [][]byte
	for range MaxBundles {
		many = append(many, good)
	}
	for what, c := range map[string]struct {
		evidence [][]byte
		want     string
	}{
		"signed":                {[][]byte{good}, ""},
		"unsigned":              {nil, "it has no signature by s0 (none was found beside it)"},
		"by a stranger":         {[][]byte{stranger.Bundle(digest, imagepolicytest.Sign)}, "another key"},
		"of another image":      {[][]byte{s.Bundle(other, imagepolicytest.Sign)}, "about another digest"},
		"an attestation only":   {[][]byte{s.Bundle(digest, imagepolicytest.SPDX)}, "it has no signature"},
		"beside a stranger's":   {[][]byte{stranger.Bundle(digest, imagepolicytest.Sign), []byte("rubbish"), good}, ""},
		"oversized":             {[][]byte{bytes.Repeat([]byte(" "), MaxBundle+1)}, "larger than"},
		"after too many others": {append(slicesOf(stranger.Bundle(digest, imagepolicytest.Sign), MaxBundles), good), "another key"},
		"many":                  {many, ""},
		"not JSON":              {[][]byte{[]byte("{")}, "not JSON"},
		"twice the key":         {[][]byte{bytes.Replace(good, []byte("{"), []byte(`{"mediaType":"x",`), 1)}, "there twice"},
		"something after it":    {[][]byte{append(bytes.Clone(good), '1')}, "follows its end"},
		"unknown media type":    {[][]byte{change(func(m map[string]any) { m["mediaType"] = "application/vnd.dev.sigstore.bundle.v0.9+json" })}, "its media type is"},
		"unknown key":           {[][]byte{change(func(m map[string]any) { m["extra"] = 1 })}, `key "extra" is not known`},
		"wrong case of a key":   {[][]byte{bytes.Replace(good, []byte("dsseEnvelope"), []byte("DSSEEnvelope"), 1)}, "not known"},
		"message signature":     {[][]byte{change(func(m map[string]any) { m["messageSignature"] = map[string]any{}; delete(m, "dsseEnvelope") })}, "no DSSE envelope"},
		"payload type":          {[][]byte{change(func(m map[string]any) { envelope(m)["payloadType"] = "text/plain" })}, "its payload is"},
		"changed payload": {[][]byte{change(func(m map[string]any) {
			envelope(m)["payload"] = strings.Replace(envelope(m)["payload"].(string), "e30", "e31", 1)[:len(envelope(m)["payload"].(string))-4] + "IH0="
		})}, "it has no signature"},
		"two signatures": {[][]byte{change(func(m map[string]any) {
			l := envelope(m)["signatures"].([]any)
			envelope(m)["signatures"] = append(l, l[0])
		})}, "one signature"},
		"no material": {[][]byte{change(func(m map[string]any) { m["verificationMaterial"] = map[string]any{} })}, "one of publicKey"},
	} {
		outcome(t, what, r.Verify(digest, Evidence{Bundles: c.evidence}, time.Now()), c.want)
	}
	outcome(t, "no digest", r.Verify("sha512:ab", Evidence{Bundles: [][]byte{good}}, time.Now()), "is not sha256")
}

func slicesOf(b []byte, n int) (out [][]byte) {
	for range n {
		out = append(out, b)
	}
	return out
}

// TestCount: signers are counted, not signatures.
func TestCount(t *testing.T) {
	a, b := imagepolicytest.NewSigner(), imagepolicytest.NewSigner()
	r := ruleOf(t, parse(t, keyPolicy(2, a, b)))
	sign := imagepolicytest.Sign
	outcome(t, "both", r.Verify(digest, Evidence{Bundles: [][]byte{a.Bundle(digest, sign), b.Bundle(digest, sign)}}, time.Now()), "")
	outcome(t, "one twice", r.Verify(digest, Evidence{Bundles: [][]byte{a.Bundle(digest, sign), a.Bundle(digest, sign)}}, time.Now()), "1 of 2 signers")
	outcome(t, "for two images", r.Verify(digest, Evidence{Bundles: [][]byte{a.Bundle(digest, sign), b.Bundle(other, sign)}}, time.Now()), "1 of 2 signers")
	// One key with two certificates is one signer, and so is one identity with two keys.
	soon := time.Now().Add(time.Hour)
	ca := imagepolicytest.NewCA(soon)
	r = ruleOf(t, parse(t, "format: 1\nsigners:\n  - name: ci\n    ca: |\n      "+imagepolicytest.Indent(ca.PEM(), 6)+"\n    identities: [ann@example.com, bob@example.com]\n"+
		"  - name: s\n    keys:\n      - |\n        "+imagepolicytest.Indent(a.PEM(), 8)+
		"\nrules:\n  - {name: app, images: [r.example.com/app], signatures: {by: [ci, s], count: 2}}\n"))
	certified := func(who string, key crypto.Signer) []byte {
		return ca.SignerOf(key, who, soon).Bundle(digest, sign)
	}
	evidence := func(b ...[]byte) Evidence { return Evidence{Bundles: b} }
	now := time.Now()
	outcome(t, "two identities of one key", r.Verify(digest, evidence(certified("ann@example.com", b.Key), certified("bob@example.com", b.Key)), now), "1 of 2 signers")
	outcome(t, "one identity of two keys", r.Verify(digest, evidence(certified("ann@example.com", a.Key), certified("ann@example.com", b.Key)), now), "1 of 2 signers")
	outcome(t, "a key and its certificate", r.Verify(digest, evidence(a.Bundle(digest, sign), certified("ann@example.com", a.Key)), now), "1 of 2 signers")
	outcome(t, "two of each", r.Verify(digest, evidence(certified("ann@example.com", a.Key), certified("bob@example.com", b.Key)), now), "")
	// One key under two names is one signer.
	if _, err := Parse([]byte(keyPolicy(2, a, a))); err == nil || !strings.Contains(err.Error(), "only 1 can sign") {
		t.Error(err)
	}
}

// TestDistinct: no two that are counted have the identity or the key in common, and as
// many are as can be.
func TestDistinct(t *testing.T) {
	for all, want := range map[string]int{
		"": 0, "a1": 1, "a1 a1": 1, "a1 a2": 1, "a1 b1": 1, "a1 b2": 2,
		"a1 a2 b1": 2, "a1 a2 b1 c1": 2, "a1 a2 a3 b1 c1": 2, "a1 b1 b2 c2 c3": 3,
	} {
		var list []signature
		for _, s := range strings.Fields(all) {
			list = append(list, signature{s[:1], s[1:]})
		}
		if got := distinct(list); got != want {
			t.Errorf("%q: %d, want %d", all, got, want)
		}
	}
}

func TestAlgorithms(t *testing.T) {
	_, ed, _ := ed25519.GenerateKey(rand.Reader)
	p384, _ := ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	p521, _ := ecdsa.GenerateKey(elliptic.P521(), rand.Reader)
	rsaKey, _ := rsa.GenerateKey(rand.Reader, 2048)
	for what, s := range map[string]*imagepolicytest.Signer{"ed25519": {Key: ed}, "p384": {Key: p384}, "rsa": {Key: rsaKey}} {
		r := ruleOf(t, parse(t, keyPolicy(1, s)))
		outcome(t, what, r.Verify(digest, Evidence{Bundles: [][]byte{s.Bundle(digest, imagepolicytest.Sign)}}, time.Now()), "")
	}
	if _, err := Parse([]byte(keyPolicy(1, &imagepolicytest.Signer{Key: p521}))); err == nil || !strings.Contains(err.Error(), "P-521 is not supported") {
		t.Error(err)
	}
}

func TestAttestations(t *testing.T) {
	s, builder := imagepolicytest.NewSigner(), imagepolicytest.NewSigner()
	text := keyPolicy(1, s, builder)
	text = strings.Replace(text, "signatures: {by: [s0, s1, ], count: 1}",
		"signatures: {by: [s0]}, attestations: [{type: "+imagepolicytest.Provenance+", by: [s1]}, {type: "+imagepolicytest.SPDX+", by: [s0, s1]}]", 1)
	r := ruleOf(t, parse(t, text))
	sig, prov, sbom := s.Bundle(digest, imagepolicytest.Sign), builder.Bundle(digest, imagepolicytest.Provenance), s.Bundle(digest, imagepolicytest.SPDX)
	outcome(t, "all", r.Verify(digest, Evidence{Bundles: [][]byte{sbom, sig, prov}}, time.Now()), "")
	outcome(t, "no provenance", r.Verify(digest, Evidence{Bundles: [][]byte{sbom, sig}}, time.Now()), "no attestation https://slsa.dev/provenance/v1 by s1")
	outcome(t, "not the builder's", r.Verify(digest, Evidence{Bundles: [][]byte{sbom, sig, s.Bundle(digest, imagepolicytest.Provenance)}}, time.Now()), "no attestation https://slsa.dev")
	outcome(t, "of another image", r.Verify(digest, Evidence{Bundles: [][]byte{sbom, sig, builder.Bundle(other, imagepolicytest.Provenance)}}, time.Now()), "about another digest")
	outcome(t, "no SBOM", r.Verify(digest, Evidence{Bundles: [][]byte{prov, sig}}, time.Now()), "no attestation "+imagepolicytest.SPDX)
}

func TestAuthority(t *testing.T) {
	now := time.Now()
	soon := now.Add(time.Hour)
	ca, stranger, old := imagepolicytest.NewCA(soon), imagepolicytest.NewCA(soon), imagepolicytest.NewCA(now.Add(-time.Hour))
	const who = "https://git.example.com/team/app@refs/tags/v1"
	policy := func(ca *imagepolicytest.CA, issuer string) *Rule {
		if issuer != "" {
			issuer = "\n    issuer: " + issuer
		}
		return ruleOf(t, parse(t, "format: 1\nsigners:\n  - name: ci\n    ca: |\n      "+imagepolicytest.Indent(ca.PEM(), 6)+
			"\n    identities: ['https://git.example.com/team/*', dev@example.com]"+issuer+
			"\nrules:\n  - {name: app, images: [r.example.com/app], signatures: {by: [ci]}}\n"))
	}
	issued := func(id string) func(*x509.Certificate) {
		der, _ := asn1.MarshalWithParams(id, "utf8")
		return func(c *x509.Certificate) { c.ExtraExtensions = []pkix.Extension{{Id: issuerDER, Value: der}} }
	}
	bare := func(id string) func(*x509.Certificate) {
		return func(c *x509.Certificate) {
			c.ExtraExtensions = append(c.ExtraExtensions, pkix.Extension{Id: issuerBare, Value: []byte(id)})
		}
	}
	serverAuth := func(c *x509.Certificate) { c.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth} }
	swapped := ca.Signer(who, soon)
	swapped.Key = imagepolicytest.NewSigner().Key
	chain := ca.Signer(who, soon)
	chain.Chain = append(chain.Chain, stranger.Cert)
	for what, c := range map[string]struct {
		r    *Rule
		s    *imagepolicytest.Signer
		want string
	}{
		"under the CA":         {policy(ca, ""), ca.Signer(who, soon), ""},
		"by mail":              {policy(ca, ""), ca.Signer("dev@example.com", soon), ""},
		"with more of a chain": {policy(ca, ""), chain, ""},
		"another identity":     {policy(ca, ""), ca.Signer("https://git.example.com/other/app", soon), "who is none of its identities"},
		"another CA":           {policy(ca, ""), stranger.Signer(who, soon), "signed under another CA"},
		"expired leaf":         {policy(ca, ""), ca.Signer(who, now.Add(-time.Minute)), "not valid now"},
		"not valid yet":        {policy(ca, ""), ca.Signer(who, now.Add(101*time.Hour)), "not valid now"},
		"expired CA":           {policy(old, ""), old.Signer(who, soon), "not valid now: that of CN=signing root"},
		"not for code":         {policy(ca, ""), ca.Signer(who, soon, serverAuth), "not for signing code"},
		"another's key":        {policy(ca, ""), swapped, "signature is not the certificate's"},
		"a bare key":           {policy(ca, ""), imagepolicytest.NewSigner(), "bare key"},
		"issuer":               {policy(ca, "https://git.example.com"), ca.Signer(who, soon, issued("https://git.example.com")), ""},
		"bare issuer":          {policy(ca, "https://git.example.com"), ca.Signer(who, soon, bare("https://git.example.com")), ""},
		"another issuer":       {policy(ca, "https://git.example.com"), ca.Signer(who, soon, issued("https://evil.example.com")), "not vouched for"},
		"two issuers":          {policy(ca, "https://git.example.com"), ca.Signer(who, soon, issued("https://git.example.com"), bare("https://evil.example.com")), "not vouched for"},
		"no issuer":            {policy(ca, "https://git.example.com"), ca.Signer(who, soon), "not vouched for"},
	} {
		outcome(t, what, c.r.Verify(digest, Evidence{Bundles: [][]byte{c.s.Bundle(digest, imagepolicytest.Sign)}}, now), c.want)
	}
	// A key's signature is not one under a certificate, though it is the same key.
	s := ca.Signer(who, soon)
	outcome(t, "certificate for a key", ruleOf(t, parse(t, keyPolicy(1, &imagepolicytest.Signer{Key: s.Key}))).Verify(digest, Evidence{Bundles: [][]byte{s.Bundle(digest, imagepolicytest.Sign)}}, now), "under a certificate")
}

func FuzzBundle(f *testing.F) {
	s := imagepolicytest.NewSigner()
	f.Add(s.Bundle(digest, imagepolicytest.Sign))
	f.Add(imagepolicytest.NewCA(time.Now().Add(time.Hour)).Signer("a@b", time.Now().Add(time.Hour)).Bundle(digest, imagepolicytest.Sign))
	p, err := Parse([]byte(keyPolicy(1, s)))
	if err != nil {
		f.Fatal(err)
	}
	r, err := p.Decide("r.example.com/app")
	if err != nil {
		f.Fatal(err)
	}
	signed := s.Bundle(digest, imagepolicytest.Sign)
	want, err := parseBundle(signed)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(signed)
	f.Fuzz(func(t *testing.T, data []byte) {
		b, err := parseBundle(data)
		// Whatever is admitted says what the signer said.
		if r.Verify(digest, Evidence{Bundles: [][]byte{data}}, time.Now()) == nil && (err != nil || b.predicate != want.predicate || !bytes.Equal(b.sha256Bytes(), want.sha256Bytes())) {
			t.Fatalf("admitted: %q, %v", data, err)
		}
	})
}

func (b *bundle) sha256Bytes() []byte { return fmt.Append(nil, b.sha256) }

func FuzzPolicy(f *testing.F) {
	f.Add([]byte(keyPolicy(1, imagepolicytest.NewSigner())))
	f.Add([]byte("format: 1\nrules:\n  - {name: a, images: ['**'], unsigned: true}\n"))
	f.Fuzz(func(t *testing.T, data []byte) {
		p, err := Parse(data)
		if err != nil {
			if strings.Contains(err.Error(), "\n") {
				t.Fatalf("an error of several lines: %q", err)
			}
			return
		}
		if len(p.rules) == 0 {
			t.Fatal("a policy without rules")
		}
		for _, r := range p.rules {
			if len(r.patterns) == 0 || !r.NeedsEvidence() && len(r.wants) > 0 {
				t.Fatalf("%+v", r)
			}
			for _, w := range r.wants {
				if w.count < 1 || len(w.by) == 0 {
					t.Fatalf("%+v", w)
				}
			}
		}
	})
}

func BenchmarkVerify(b *testing.B) {
	s := imagepolicytest.NewSigner()
	p, err := Parse([]byte(keyPolicy(1, s)))
	if err != nil {
		b.Fatal(err)
	}
	r, err := p.Decide("r.example.com/app")
	if err != nil {
		b.Fatal(err)
	}
	evidence := [][]byte{s.Bundle(digest, imagepolicytest.Sign)}
	for b.Loop() {
		if err := r.Verify(digest, Evidence{Bundles: evidence}, time.Now()); err != nil {
			b.Fatal(err)
		}
	}
}
