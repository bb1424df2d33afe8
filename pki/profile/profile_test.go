package profile

import (
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"net"
	"net/url"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/redoubt-cluster/redoubt/internal/ident"
	"github.com/redoubt-cluster/redoubt/pki/profile/profilepb"
)

func TestLeafRoundTrip(t *testing.T) {
	authority := newCA(t)
	for role := range roleNames {
		id := Identity{ClusterID: ident.New(), NodeID: ident.New(), Role: role}
		if role != profilepb.Role_ROLE_BOOT {
			id.KeydKey = newKeydKey(t)
		}
		cert := authority.sign(t, LeafTemplate(id, time.Now(), LeafLife), newKey(t).Public())
		got, err := NodeFromCert(cert)
		if err != nil {
			t.Fatalf("%s: %v", RoleName(role), err)
		}
		if got.ClusterID != id.ClusterID || got.NodeID != id.NodeID || got.Role != role ||
			string(got.KeydKey) != string(id.KeydKey) || string(got.SPKI) != string(SPKIHash(cert)) {
			t.Errorf("%s: got %+v", RoleName(role), got)
		}
	}
}

// TestLeafRefusals changes one thing of a good template at a time.
func TestLeafRefusals(t *testing.T) {
	authority := newCA(t)
	key := newKey(t)
	good := Identity{ClusterID: ident.New(), NodeID: ident.New(), Role: profilepb.Role_ROLE_WORKER}
	rsaKey, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	p384, err := ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	role := func(value []byte, critical bool) func(*x509.Certificate) {
		return func(c *x509.Certificate) {
			c.ExtraExtensions = []pkix.Extension{{Id: OIDRole, Value: value, Critical: critical}}
		}
	}
	uri := func(s string) func(*x509.Certificate) {
		return func(c *x509.Certificate) {
			u, err := url.Parse(s)
			if err != nil {
				t.Fatal(err)
			}
			c.URIs = []*url.URL{u}
		}
	}
	path := good.ClusterID + "/node/" + good.NodeID
	sanRawOther := mustMarshal([]asn1.RawValue{
		{Class: 2, Tag: 6, Bytes: []byte("spiffe://" + path)},
		{Class: 2, Tag: 8, Bytes: []byte{0x2a, 3}}, // a registered ID, which the parser skips
	}, "")
	cases := map[string]struct {
		pub    any
		change func(*x509.Certificate)
	}{
		"a CA":                  {change: func(c *x509.Certificate) { c.IsCA = true }},
		"no basic constraints":  {change: func(c *x509.Certificate) { c.BasicConstraintsValid = false }},
		"key usage":             {change: func(c *x509.Certificate) { c.KeyUsage |= x509.KeyUsageCertSign }},
		"no ext key usage":      {change: func(c *x509.Certificate) { c.ExtKeyUsage = nil }},
		"one ext key usage":     {change: func(c *x509.Certificate) { c.ExtKeyUsage = c.ExtKeyUsage[:1] }},
		"three ext key usages":  {change: func(c *x509.Certificate) { c.ExtKeyUsage = append(c.ExtKeyUsage, x509.ExtKeyUsageAny) }},
		"subject":               {change: func(c *x509.Certificate) { c.Subject.CommonName = "manager" }},
		"dns name":              {change: func(c *x509.Certificate) { c.DNSNames = []string{"a"} }},
		"ip":                    {change: func(c *x509.Certificate) { c.IPAddresses = []net.IP{{127, 0, 0, 1}} }},
		"two uris":              {change: func(c *x509.Certificate) { c.URIs = append(c.URIs, c.URIs[0]) }},
		"no uri":                {change: func(c *x509.Certificate) { c.URIs = nil }},
		"hidden name":           {change: func(c *x509.Certificate) { c.URIs = nil; addExt(c, oidSubjectAltName, true, sanRawOther) }},
		"unknown extension":     {change: func(c *x509.Certificate) { addExt(c, asn1.ObjectIdentifier{1, 2, 3}, false, []byte{5, 0}) }},
		"no role":               {change: func(c *x509.Certificate) { c.ExtraExtensions = nil }},
		"role admin":            {change: role(mustMarshal("admin", "utf8"), false)},
		"role as PrintableText": {change: role(mustMarshal("worker", "printable"), false)},
		"role with a tail":      {change: role(append(mustMarshal("worker", "utf8"), 5, 0), false)},
		"role critical":         {change: role(mustMarshal("worker", "utf8"), true)},
		"keyd key short":        {change: func(c *x509.Certificate) { addExt(c, OIDKeydKey, false, mustMarshal(make([]byte, 32), "")) }},
		"boot with keyd key": {change: func(c *x509.Certificate) {
			role(mustMarshal("boot", "utf8"), false)(c)
			addExt(c, OIDKeydKey, false, mustMarshal(newKeydKey(t), ""))
		}},
		"other scheme":  {change: uri("https://" + path)},
		"upper case":    {change: uri("spiffe://" + strings.ToUpper(good.ClusterID) + "/node/" + good.NodeID)},
		"port":          {change: uri("spiffe://" + good.ClusterID + ":1/node/" + good.NodeID)},
		"query":         {change: uri("spiffe://" + path + "?a")},
		"empty query":   {change: uri("spiffe://" + path + "?")},
		"fragment":      {change: uri("spiffe://" + path + "#a")},
		"user":          {change: uri("spiffe://u@" + path)},
		"longer path":   {change: uri("spiffe://" + path + "/x")},
		"service":       {change: uri("spiffe://" + good.ClusterID + "/svc/" + good.NodeID)},
		"short node id": {change: uri("spiffe://" + path[:len(path)-1])},
		"too long":      {change: func(c *x509.Certificate) { c.NotAfter = c.NotBefore.Add(MaxLeafLife + time.Hour) }},
		"ends at once":  {change: func(c *x509.Certificate) { c.NotAfter = c.NotBefore.Add(Backdate) }},
		"rsa":           {pub: rsaKey.Public(), change: func(*x509.Certificate) {}},
		"p384":          {pub: p384.Public(), change: func(*x509.Certificate) {}},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			tmpl := LeafTemplate(good, time.Now(), LeafLife)
			tc.change(tmpl)
			pub := tc.pub
			if pub == nil {
				pub = key.Public()
			}
			if _, err := NodeFromCert(authority.sign(t, tmpl, pub)); err == nil {
				t.Error("accepted")
			}
		})
	}
}

func addExt(c *x509.Certificate, oid asn1.ObjectIdentifier, critical bool, value []byte) {
	c.ExtraExtensions = append(c.ExtraExtensions, pkix.Extension{Id: oid, Critical: critical, Value: value})
}

// TestProofInputsDiffer: no two different inputs, nor two purposes, give the
// same bytes, whatever the lengths of the parts.
func TestProofInputsDiffer(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		gen := rapid.SliceOfN(rapid.Byte(), 0, 3)
		draw := func() [4][]byte {
			var p [4][]byte
			for i := range p {
				p[i] = gen.Draw(t, "part")
			}
			return p
		}
		a, b := draw(), draw()
		same := true
		for i := range a {
			same = same && string(a[i]) == string(b[i])
		}
		ja, jb := JoinProofInput(a[0], a[1], a[2], string(a[3])), JoinProofInput(b[0], b[1], b[2], string(b[3]))
		if (string(ja) == string(jb)) != same {
			t.Fatalf("%x and %x collide", a, b)
		}
		if string(RenewProofInput(a[0], a[1], a[2])) == string(ja) || string(TokenSigningInput(a[0])) == string(ja) {
			t.Fatal("two purposes share an input")
		}
	})
}

func TestProofs(t *testing.T) {
	pub, priv, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	exporter, csr, id := make([]byte, ExporterLen), []byte("csr"), ident.New()
	proof := ed25519.Sign(priv, JoinProofInput(exporter, csr, nil, id))
	if err := CheckJoinProof(pub, exporter, csr, nil, id, proof); err != nil {
		t.Error(err)
	}
	other := append([]byte(nil), exporter...)
	other[0] = 1
	for name, err := range map[string]error{
		"other connection": CheckJoinProof(pub, other, csr, nil, id, proof),
		"other csr":        CheckJoinProof(pub, exporter, []byte("rsc"), nil, id, proof),
		"added boot csr":   CheckJoinProof(pub, exporter, csr, []byte("b"), id, proof),
		"other token":      CheckJoinProof(pub, exporter, csr, nil, ident.New(), proof),
		"short exporter":   CheckJoinProof(pub, nil, csr, nil, id, proof),
		"short key":        CheckJoinProof(pub[1:], exporter, csr, nil, id, proof),
	} {
		if err == nil {
			t.Errorf("%s: proof accepted", name)
		}
	}

	authority, key := newCA(t), newKey(t)
	leaf := authority.sign(t, LeafTemplate(Identity{ClusterID: ident.New(), NodeID: id, Role: profilepb.Role_ROLE_WORKER}, time.Now(), LeafLife), key.Public())
	renew, err := SignRenewProof(key, csr, nil, leaf.Raw)
	if err != nil {
		t.Fatal(err)
	}
	if err := CheckRenewProof(leaf, csr, nil, renew); err != nil {
		t.Error(err)
	}
	if CheckRenewProof(leaf, []byte("rsc"), nil, renew) == nil {
		t.Error("renewal proof accepted for another request")
	}
}
