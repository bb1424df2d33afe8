package imagepolicy

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/sha512"
	"crypto/x509"
	"encoding/asn1"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/redoubt-cluster/redoubt/internal/ident"
)

// Evidence is what was found beside an image.
type Evidence struct {
	Bundles [][]byte
	// Left says what was not taken, and why.
	Left []string
}

// Full reports whether another bundle of so many bytes is not to be taken.
func (e *Evidence) Full(size int64) bool {
	n := size
	for _, b := range e.Bundles {
		n += int64(len(b))
	}
	return len(e.Bundles) >= MaxBundles || n > MaxEvidence
}

// Add takes what is not there yet of other, as far as there is room.
func (e *Evidence) Add(other Evidence) {
	for _, b := range other.Bundles {
		if !slices.ContainsFunc(e.Bundles, func(have []byte) bool { return bytes.Equal(have, b) }) && !e.Full(int64(len(b))) {
			e.Bundles = append(e.Bundles, b)
		}
	}
	e.Left = append(e.Left, other.Left...)
}

// Verify judges what was found beside the image of this digest ("sha256:…"), at the
// time now. More of it, or bundles of others, never make an image refused that would
// be admitted without them.
func (r *Rule) Verify(digest string, e Evidence, now time.Time) error {
	if !r.NeedsEvidence() {
		return nil
	}
	hex, ok := strings.CutPrefix(digest, "sha256:")
	if !ok || len(hex) != 2*sha256.Size {
		return r.refuse("the digest %q is not sha256:…", ident.Clip(digest))
	}
	var bundles []*bundle
	reasons := slices.Clone(e.Left) // why bundles count for nothing
	for i, data := range e.Bundles[:min(len(e.Bundles), MaxBundles)] {
		b, err := parseBundle(data)
		switch {
		case err != nil:
			reasons = append(reasons, fmt.Sprintf("bundle %d: %v", i+1, err))
		case !slices.Contains(b.sha256, hex):
			reasons = append(reasons, fmt.Sprintf("bundle %d is about another digest", i+1))
		default:
			bundles = append(bundles, b)
		}
	}
	for _, w := range r.wants {
		if err := w.met(r, bundles, reasons, now); err != nil {
			return err
		}
	}
	return nil
}

// met reports whether as many different signers as are wanted made such a statement.
func (w *want) met(r *Rule, bundles []*bundle, reasons []string, now time.Time) error {
	var who []signature
	of := 0
	for _, b := range bundles {
		if b.predicate != w.predicate {
			continue
		}
		of++
		for _, t := range w.by {
			by, err := t.signed(b, now)
			if err == nil {
				who = append(who, by)
				break
			}
			reasons = append(reasons, fmt.Sprintf("%s: %v", t.name, err))
		}
	}
	signers := distinct(who)
	if signers >= w.count {
		return nil
	}
	what := "signature"
	if w.predicate != cosignSign {
		what = "attestation " + w.predicate
	}
	var by []string
	for _, t := range w.by {
		by = append(by, t.name)
	}
	why := fmt.Sprintf("it has no %s by %s", what, strings.Join(by, " or "))
	if w.count > 1 {
		why = fmt.Sprintf("it has %d of %d signers of a %s among %s", signers, w.count, what, strings.Join(by, ", "))
	}
	if len(reasons) == 0 && of == 0 {
		reasons = []string{"none was found beside it"}
	}
	return r.refuse("%s (%s)", why, strings.Join(reasons[:min(len(reasons), maxReasons)], "; "))
}

// signed reports whether the bundle's signature is the signer's, and gives
// what tells this signer from others.
func (t *trusted) signed(b *bundle, now time.Time) (by signature, err error) {
	if t.roots == nil {
		if b.leaf != nil {
			return by, errors.New("signed under a certificate, not with its key")
		}
		for i, key := range t.keys {
			if verify(key, b.signed, b.signature) {
				return signature{"key " + t.ids[i], t.ids[i]}, nil
			}
		}
		return by, errors.New("signed with another key")
	}
	if b.leaf == nil {
		return by, errors.New("signed with a bare key, not under its CA")
	}
	if err := checkKey(b.leaf.PublicKey); err != nil {
		return by, fmt.Errorf("the certificate's key: %w", err)
	}
	between := x509.NewCertPool()
	for _, c := range slices.Concat(t.between, b.between) {
		between.AddCert(c)
	}
	if _, err := b.leaf.Verify(x509.VerifyOptions{Roots: t.roots, Intermediates: between, CurrentTime: now,
		KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageCodeSigning}}); err != nil {
		return by, chainError(err)
	}
	who, err := t.identity(b.leaf)
	if err != nil {
		return by, err
	}
	if !verify(b.leaf.PublicKey, b.signed, b.signature) {
		return by, errors.New("the signature is not the certificate's")
	}
	key, err := keyID(b.leaf.PublicKey)
	return signature{"identity " + who, key}, err
}

// chainError says it in a few words.
func chainError(err error) error {
	var invalid x509.CertificateInvalidError
	var unknown x509.UnknownAuthorityError
	switch {
	case errors.As(err, &invalid) && invalid.Reason == x509.Expired:
		return fmt.Errorf("a certificate is not valid now: that of %s is from %s to %s", ident.Clip(invalid.Cert.Subject.String()),
			invalid.Cert.NotBefore.UTC().Format(time.RFC3339), invalid.Cert.NotAfter.UTC().Format(time.RFC3339))
	case errors.As(err, &invalid) && invalid.Reason == x509.IncompatibleUsage:
		return errors.New("the certificate is not for signing code")
	case errors.As(err, &unknown):
		return errors.New("signed under another CA")
	}
	return errors.New("its certificate does not lead to the CA")
}

// The extensions by which a certificate says who vouched for the identity: the
// second as a DER string, the first, older one as bare text.
var (
	issuerBare = asn1.ObjectIdentifier{1, 3, 6, 1, 4, 1, 57264, 1, 1}
	issuerDER  = asn1.ObjectIdentifier{1, 3, 6, 1, 4, 1, 57264, 1, 8}
)

// identity gives the subject alternative name by which the certificate is one of
// those who may sign.
func (t *trusted) identity(c *x509.Certificate) (string, error) {
	if t.issuer != "" {
		issuers := map[string]bool{}
		for _, e := range c.Extensions {
			switch {
			case e.Id.Equal(issuerBare):
				issuers[string(e.Value)] = true
			case e.Id.Equal(issuerDER):
				var s string
				if rest, err := asn1.Unmarshal(e.Value, &s); err != nil || len(rest) > 0 {
					return "", errors.New("the certificate's issuer is malformed")
				}
				issuers[s] = true
			}
		}
		if len(issuers) != 1 || !issuers[t.issuer] {
			return "", fmt.Errorf("the identity is not vouched for by %s", t.issuer)
		}
	}
	names := slices.Concat(c.EmailAddresses, c.DNSNames)
	for _, u := range c.URIs {
		names = append(names, u.String())
	}
	for _, n := range names {
		for _, want := range t.identities {
			head, any := strings.CutSuffix(want, "*")
			if n == want || any && strings.HasPrefix(n, head) {
				return n, nil
			}
		}
	}
	return "", fmt.Errorf("signed by %q, who is none of its identities", ident.Clip(strings.Join(names, " ")))
}

// verify reports whether sig over signed was made with the key.
func verify(key crypto.PublicKey, signed, sig []byte) bool {
	switch k := key.(type) {
	case ed25519.PublicKey:
		return ed25519.Verify(k, signed, sig)
	case *ecdsa.PublicKey:
		if k.Curve == elliptic.P384() {
			sum := sha512.Sum384(signed)
			return ecdsa.VerifyASN1(k, sum[:], sig)
		}
		sum := sha256.Sum256(signed)
		return ecdsa.VerifyASN1(k, sum[:], sig)
	case *rsa.PublicKey:
		sum := sha256.Sum256(signed)
		return rsa.VerifyPKCS1v15(k, crypto.SHA256, sum[:], sig) == nil
	}
	return false
}
