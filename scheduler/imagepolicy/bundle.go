package imagepolicy

import (
	"bytes"
	"crypto/rsa"
	"crypto/x509"
	"errors"
	"fmt"
	"strconv"
	"strings"

	"github.com/redoubt-cluster/redoubt/internal/ident"
)

const (
	// BundleType is the media type of a bundle, and the artifact type of the
	// manifest by which a registry or layout has it beside its image.
	BundleType = "application/vnd.dev.sigstore.bundle.v0.3+json"
	// cosignSign is the predicate type of a statement that is a signature and no
	// more.
	cosignSign = "https://sigstore.dev/cosign/sign/v1"

	intotoType    = "application/vnd.in-toto+json"
	statementType = "https://in-toto.io/Statement/v1"
	statementV01  = "https://in-toto.io/Statement/v0.1"
)

// bundle is a signed statement, not verified.
type bundle struct {
	statement
	signed    []byte // the envelope's pre-authentication encoding
	signature []byte
	leaf      *x509.Certificate // nil: it was signed with a bare key
	between   []*x509.Certificate
}

// statement is what it says of which digests.
type statement struct {
	predicate string
	sha256    []string // of its subjects, in hex
}

// parseBundle reads a bundle. Entries of transparency logs and timestamps are left
// unread: nothing is concluded from them.
func parseBundle(data []byte) (*bundle, error) {
	if len(data) > MaxBundle {
		return nil, fmt.Errorf("it is larger than %d bytes", MaxBundle)
	}
	top, err := object(data, "mediaType", "verificationMaterial", "dsseEnvelope", "messageSignature")
	if err != nil {
		return nil, err
	}
	kind, err := text(top["mediaType"])
	if err != nil || kind != BundleType {
		return nil, fmt.Errorf("its media type is %q, not %s", ident.Clip(kind), BundleType)
	}
	if top["dsseEnvelope"] == nil || top["messageSignature"] != nil {
		return nil, errors.New("it holds no DSSE envelope: sign the image with cosign 3 or newer, or with --new-bundle-format")
	}
	b := &bundle{}
	if err := b.material(top["verificationMaterial"]); err != nil {
		return nil, fmt.Errorf("verificationMaterial: %w", err)
	}
	if err := b.envelope(top["dsseEnvelope"]); err != nil {
		return nil, fmt.Errorf("dsseEnvelope: %w", err)
	}
	return b, nil
}

func (b *bundle) material(raw []byte) error {
	m, err := object(raw, "publicKey", "certificate", "x509CertificateChain", "tlogEntries", "timestampVerificationData")
	if err != nil {
		return err
	}
	n := 0
	var certs [][]byte
	if m["publicKey"] != nil { // a hint: the policy's keys are all tried
		n++
		if _, err := object(m["publicKey"], "hint"); err != nil {
			return fmt.Errorf("publicKey: %w", err)
		}
	}
	if m["certificate"] != nil {
		n++
		certs = append(certs, m["certificate"])
	}
	if m["x509CertificateChain"] != nil {
		n++
		chain, err := object(m["x509CertificateChain"], "certificates")
		if err != nil {
			return fmt.Errorf("x509CertificateChain: %w", err)
		}
		all, err := list(chain["certificates"], maxChain)
		if err != nil || len(all) == 0 {
			return fmt.Errorf("x509CertificateChain must have 1 to %d certificates", maxChain)
		}
		for _, c := range all {
			certs = append(certs, c)
		}
	}
	if n != 1 {
		return errors.New("it must have one of publicKey, certificate and x509CertificateChain")
	}
	for i, raw := range certs {
		o, err := object(raw, "rawBytes")
		if err != nil {
			return fmt.Errorf("certificate: %w", err)
		}
		der, err := blob(o["rawBytes"])
		if err != nil {
			return fmt.Errorf("certificate: %w", err)
		}
		c, err := parseCertificate(der)
		if err != nil {
			return err
		}
		if i == 0 {
			b.leaf = c
		} else {
			b.between = append(b.between, c)
		}
	}
	return nil
}

// parseCertificate refuses what would cost too much to verify.
func parseCertificate(der []byte) (*x509.Certificate, error) {
	if len(der) > maxCertificate {
		return nil, fmt.Errorf("its certificate is larger than %d bytes", maxCertificate)
	}
	c, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, errors.New("its certificate is malformed")
	}
	if k, ok := c.PublicKey.(*rsa.PublicKey); ok && k.N.BitLen() > maxRSA {
		return nil, fmt.Errorf("its certificate's key has more than %d bits", maxRSA)
	}
	return c, nil
}

func (b *bundle) envelope(raw []byte) error {
	e, err := object(raw, "payload", "payloadType", "signatures")
	if err != nil {
		return err
	}
	kind, err := text(e["payloadType"])
	if err != nil || kind != intotoType {
		return fmt.Errorf("its payload is %q, not %s", ident.Clip(kind), intotoType)
	}
	payload, err := blob(e["payload"])
	if err != nil {
		return fmt.Errorf("payload: %w", err)
	}
	sigs, err := list(e["signatures"], 1) // as the format has it
	if err != nil || len(sigs) == 0 {
		return errors.New("it must have one signature")
	}
	sig, err := object(sigs[0], "sig", "keyid")
	if err != nil {
		return fmt.Errorf("signature: %w", err)
	}
	if b.signature, err = blob(sig["sig"]); err != nil || len(b.signature) == 0 {
		return errors.New("signature: it is not base64")
	}
	b.signed = preAuth(kind, payload)
	return b.state(payload)
}

// preAuth is what an envelope's signatures are over: DSSE v1's PAE.
func preAuth(kind string, payload []byte) []byte {
	var b bytes.Buffer
	b.WriteString("DSSEv1 " + strconv.Itoa(len(kind)) + " " + kind + " " + strconv.Itoa(len(payload)) + " ")
	b.Write(payload)
	return b.Bytes()
}

// state reads the in-toto statement. Its predicate is not looked into.
func (b *bundle) state(payload []byte) error {
	s, err := object(payload)
	if err != nil {
		return fmt.Errorf("statement: %w", err)
	}
	if kind, err := text(s["_type"]); err != nil || kind != statementType && kind != statementV01 {
		return fmt.Errorf("statement: its type is %q, not %s", ident.Clip(kind), statementType)
	}
	if b.predicate, err = text(s["predicateType"]); err != nil || b.predicate == "" {
		return errors.New("statement: it has no predicateType")
	}
	subjects, err := list(s["subject"], maxSubjects)
	if err != nil {
		return fmt.Errorf("statement: subject: %w", err)
	}
	for _, raw := range subjects {
		one, err := object(raw)
		if err != nil {
			return fmt.Errorf("statement: subject: %w", err)
		}
		if one["digest"] == nil {
			continue
		}
		digests, err := object(one["digest"])
		if err != nil {
			return fmt.Errorf("statement: subject: %w", err)
		}
		sum, err := text(digests["sha256"])
		if err != nil {
			return fmt.Errorf("statement: subject: %w", err)
		}
		if sum != "" {
			b.sha256 = append(b.sha256, strings.ToLower(sum))
		}
	}
	return nil
}
