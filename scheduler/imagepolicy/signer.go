package imagepolicy

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"
	"strings"
)

func (s *signer) compile() (*trusted, error) {
	t := &trusted{name: s.Name, issuer: s.Issuer}
	switch {
	case (len(s.Keys) > 0) == (s.CA != ""):
		return nil, errors.New("give either `keys` or `ca`")
	case len(s.Keys) > maxKeys:
		return nil, fmt.Errorf("more than %d keys", maxKeys)
	case s.CA == "" && (len(s.Identities) > 0 || s.Issuer != ""):
		return nil, errors.New("`identities` and `issuer` are for signers with a `ca`")
	case s.CA != "" && len(s.Identities) == 0:
		return nil, errors.New("name those who may sign under the CA by `identities`")
	case len(s.Identities) > maxIdentities:
		return nil, fmt.Errorf("more than %d identities", maxIdentities)
	}
	for i, text := range s.Keys {
		key, id, err := parseKey([]byte(text))
		if err != nil {
			return nil, fmt.Errorf("key %d: %w", i+1, err)
		}
		for _, other := range t.ids {
			if other == id {
				return nil, fmt.Errorf("key %d is there twice", i+1)
			}
		}
		t.keys, t.ids = append(t.keys, key), append(t.ids, id)
	}
	if s.CA != "" {
		if err := t.parseCA([]byte(s.CA)); err != nil {
			return nil, fmt.Errorf("ca: %w", err)
		}
	}
	for _, id := range s.Identities {
		if err := line("identity", id); err != nil {
			return nil, err
		}
		if head, tail, found := strings.Cut(id, "*"); found && (tail != "" || head == "") {
			return nil, fmt.Errorf("identity %q: a * may only stand at the end, after something", id)
		}
		t.identities = append(t.identities, id)
	}
	if s.Issuer != "" {
		if err := line("issuer", s.Issuer); err != nil {
			return nil, err
		}
	}
	return t, nil
}

// parseKey reads one PEM public key, and nothing else.
func parseKey(text []byte) (crypto.PublicKey, string, error) {
	block, rest := pem.Decode(text)
	if block == nil || block.Type != "PUBLIC KEY" || len(bytes.TrimSpace(rest)) > 0 {
		return nil, "", errors.New("it must be one PEM block PUBLIC KEY, as cosign.pub is")
	}
	key, err := x509.ParsePKIXPublicKey(block.Bytes)
	if err != nil {
		return nil, "", errors.New("it is no public key")
	}
	if err := checkKey(key); err != nil {
		return nil, "", err
	}
	id, err := keyID(key)
	return key, id, err
}

// keyID tells keys apart, however they were written.
func keyID(key crypto.PublicKey) (string, error) {
	der, err := x509.MarshalPKIXPublicKey(key)
	sum := sha256.Sum256(der)
	return hex.EncodeToString(sum[:]), err
}

func checkKey(key crypto.PublicKey) error {
	switch k := key.(type) {
	case ed25519.PublicKey:
		return nil
	case *ecdsa.PublicKey:
		if k.Curve == elliptic.P256() || k.Curve == elliptic.P384() {
			return nil
		}
		return fmt.Errorf("the curve %s is not supported: use P-256 or P-384", k.Curve.Params().Name)
	case *rsa.PublicKey:
		if n := k.N.BitLen(); n >= minRSA && n <= maxRSA {
			return nil
		}
		return fmt.Errorf("an RSA key must have %d to %d bits", minRSA, maxRSA)
	}
	return errors.New("it is neither ECDSA, Ed25519 nor RSA")
}

// parseCA reads the certificates of a CA.
func (t *trusted) parseCA(text []byte) error {
	roots, n := 0, 0
	t.roots = x509.NewCertPool()
	for len(bytes.TrimSpace(text)) > 0 {
		var block *pem.Block
		if block, text = pem.Decode(text); block == nil || block.Type != "CERTIFICATE" {
			return errors.New("it must be PEM blocks CERTIFICATE and nothing else")
		}
		if n++; n > maxAuthority {
			return fmt.Errorf("more than %d certificates", maxAuthority)
		}
		c, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return fmt.Errorf("certificate %d is malformed", n)
		}
		if !c.IsCA || !c.BasicConstraintsValid {
			return fmt.Errorf("certificate %d is no CA's", n)
		}
		if bytes.Equal(c.RawSubject, c.RawIssuer) && c.CheckSignatureFrom(c) == nil {
			t.roots.AddCert(c)
			roots++
		} else {
			t.between = append(t.between, c)
		}
	}
	if roots == 0 {
		return errors.New("no certificate of it is a root, signed by itself")
	}
	return nil
}
