package profile

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"net/url"
	"testing"

	"github.com/redoubt-cluster/redoubt/internal/ident"
)

func TestCSR(t *testing.T) {
	key := newKey(t)
	for _, keyd := range [][]byte{nil, newKeydKey(t)} {
		der, err := NewCSR(key, keyd)
		if err != nil {
			t.Fatal(err)
		}
		csr, err := ParseCSR(der)
		if err != nil {
			t.Fatal(err)
		}
		if string(csr.KeydKey) != string(keyd) || !key.PublicKey.Equal(csr.Request.PublicKey) {
			t.Error("the request does not say what it was made of")
		}
		flipped := append([]byte(nil), der...)
		flipped[len(flipped)-1] ^= 1
		for name, bad := range map[string][]byte{"truncated": der[:len(der)-1], "tail": append(der[:len(der):len(der)], 0), "flipped": flipped} {
			if _, err := ParseCSR(bad); err == nil {
				t.Errorf("%s request accepted", name)
			}
		}
	}
	if _, err := NewCSR(key, []byte("short")); err == nil {
		t.Error("NewCSR took a malformed keyd key")
	}
}

func TestCSRRefusals(t *testing.T) {
	p384, err := ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	keydExt := pkix.Extension{Id: OIDKeydKey, Value: mustMarshal(newKeydKey(t), "")}
	critical := keydExt
	critical.Critical = true
	cases := map[string]*x509.CertificateRequest{
		"subject":         {Subject: pkix.Name{CommonName: "x"}},
		"dns":             {DNSNames: []string{"a"}},
		"uri":             {URIs: []*url.URL{NodeURI(ident.New(), ident.New())}},
		"role":            {ExtraExtensions: []pkix.Extension{{Id: OIDRole, Value: mustMarshal("manager", "utf8")}}},
		"keyd key + role": {ExtraExtensions: []pkix.Extension{keydExt, {Id: OIDRole, Value: mustMarshal("manager", "utf8")}}},
		"critical":        {ExtraExtensions: []pkix.Extension{critical}},
		"short keyd key":  {ExtraExtensions: []pkix.Extension{{Id: OIDKeydKey, Value: mustMarshal([]byte{1}, "")}}},
		"not an octet string": {ExtraExtensions: []pkix.Extension{
			{Id: OIDKeydKey, Value: mustMarshal("text", "utf8")}}},
		"sha512": {SignatureAlgorithm: x509.ECDSAWithSHA512},
		// The attribute the standard parser skips: a challenge password.
		"attribute": {Attributes: []pkix.AttributeTypeAndValueSET{{Type: asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 9, 7},
			Value: [][]pkix.AttributeTypeAndValue{{{Type: asn1.ObjectIdentifier{2, 5, 4, 3}, Value: "x"}}}}}},
	}
	for name, tmpl := range cases {
		der, err := x509.CreateCertificateRequest(rand.Reader, tmpl, newKey(t))
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		if _, err := ParseCSR(der); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
	der, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{}, p384)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := ParseCSR(der); err == nil {
		t.Error("p384: accepted")
	}
	if _, err := ParseCSR(make([]byte, MaxCSR+1)); err == nil {
		t.Error("oversized: accepted")
	}
}

func FuzzParseCSR(f *testing.F) {
	key := newKey(f)
	for _, k := range [][]byte{nil, newKeydKey(f)} {
		der, err := NewCSR(key, k)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(der)
	}
	f.Fuzz(func(t *testing.T, der []byte) {
		csr, err := ParseCSR(der)
		if err != nil {
			return
		}
		if string(csr.Request.Raw) != string(der) || len(csr.Request.URIs)+len(csr.Request.DNSNames) != 0 {
			t.Error("accepted more than a bare request")
		}
	})
}
