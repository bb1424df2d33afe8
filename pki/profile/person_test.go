package profile

import (
	"crypto/ed25519"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"net/url"
	"slices"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/redoubt-cluster/redoubt/internal/ident"
	"github.com/redoubt-cluster/redoubt/pki/profile/profilepb"
)

// TestPersonCertificate holds the one shape there is against all that differ, and
// against nodes'.
func TestPersonCertificate(t *testing.T) {
	ca, cluster, now := newCA(t), ident.New(), time.Now()
	good := func() *x509.Certificate {
		return PersonTemplate(cluster, "alice", now, PersonLife)
	}
	cert := ca.sign(t, good(), newKey(t).Public())
	id, err := PersonFromCert(cert)
	if err != nil || id.Person != "alice" || id.ClusterID != cluster || id.NodeID != "" || id.Role != profilepb.Role_ROLE_UNSPECIFIED ||
		id.Subject() != "person/alice" || string(id.SPKI) != string(SPKIHash(cert)) {
		t.Fatalf("%+v, %v", id, err)
	}
	if _, err := NodeFromCert(cert); err == nil {
		t.Error("a person's certificate passes for a node's")
	}
	if _, err := ParseChain(&profilepb.CertificateChain{Certificates: [][]byte{cert.Raw}}); err == nil {
		t.Error("a person's chain passes for a node's")
	}
	if got, err := FromCert(cert); err != nil || got.Person != "alice" {
		t.Errorf("%+v, %v", got, err)
	}
	for role := range roleNames {
		node := LeafTemplate(Identity{ClusterID: cluster, NodeID: ident.New(), Role: role}, now, time.Hour)
		leaf := ca.sign(t, node, newKey(t).Public())
		if _, err := PersonFromCert(leaf); err == nil {
			t.Errorf("a %s's certificate passes for a person's", RoleName(role))
		}
		if got, err := FromCert(leaf); err != nil || got.Role != role || got.Person != "" {
			t.Errorf("%+v, %v", got, err)
		}
	}
	role := func(name string) []pkix.Extension {
		return []pkix.Extension{{Id: OIDRole, Value: mustMarshal(name, "utf8")}}
	}
	uri := func(s string) []*url.URL {
		u, err := url.Parse(s)
		if err != nil {
			t.Fatal(err)
		}
		return []*url.URL{u}
	}
	for name, change := range map[string]func(*x509.Certificate){
		"no role":      func(c *x509.Certificate) { c.ExtraExtensions = nil },
		"manager":      func(c *x509.Certificate) { c.ExtraExtensions = role("manager") },
		"another role": func(c *x509.Certificate) { c.ExtraExtensions = role("Person") },
		"two roles":    func(c *x509.Certificate) { c.ExtraExtensions = append(role("person"), role("person")...) },
		"a server's": func(c *x509.Certificate) {
			c.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth}
		},
		"a server's alone":  func(c *x509.Certificate) { c.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth} },
		"any usage":         func(c *x509.Certificate) { c.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageAny} },
		"unknown usage":     func(c *x509.Certificate) { c.UnknownExtKeyUsage = []asn1.ObjectIdentifier{{1, 2, 3}} },
		"signs":             func(c *x509.Certificate) { c.KeyUsage |= x509.KeyUsageCertSign },
		"a CA":              func(c *x509.Certificate) { c.IsCA = true },
		"a subject":         func(c *x509.Certificate) { c.Subject = pkix.Name{CommonName: "alice"} },
		"a DNS name":        func(c *x509.Certificate) { c.DNSNames = []string{"alice"} },
		"two URIs":          func(c *x509.Certificate) { c.URIs = append(c.URIs, PersonURI(cluster, "bob")) },
		"a node's URI":      func(c *x509.Certificate) { c.URIs = []*url.URL{NodeURI(cluster, ident.New())} },
		"a service's URI":   func(c *x509.Certificate) { c.URIs = []*url.URL{ServiceURI(cluster, "", "web")} },
		"an upper-case":     func(c *x509.Certificate) { c.URIs = []*url.URL{PersonURI(cluster, "Alice")} },
		"a path":            func(c *x509.Certificate) { c.URIs = []*url.URL{PersonURI(cluster, "alice/bob")} },
		"no name":           func(c *x509.Certificate) { c.URIs = []*url.URL{PersonURI(cluster, "")} },
		"an id for a name":  func(c *x509.Certificate) { c.URIs = []*url.URL{PersonURI(cluster, ident.New())} },
		"an escape":         func(c *x509.Certificate) { c.URIs = uri("spiffe://" + cluster + "/person/%61lice") },
		"a query":           func(c *x509.Certificate) { c.URIs = uri("spiffe://" + cluster + "/person/alice?x=1") },
		"a port":            func(c *x509.Certificate) { c.URIs = uri("spiffe://" + cluster + ":1/person/alice") },
		"no cluster":        func(c *x509.Certificate) { c.URIs = uri("spiffe://cluster/person/alice") },
		"lives too long":    func(c *x509.Certificate) { c.NotAfter = now.Add(MaxPersonLife + time.Minute) },
		"never lived":       func(c *x509.Certificate) { c.NotAfter = c.NotBefore.Add(Backdate) },
		"unknown extension": func(c *x509.Certificate) { c.ExtraExtensions = append(role("person"), ExternalMark()) },
		"a TPM": func(c *x509.Certificate) {
			c.ExtraExtensions = append(role("person"), pkix.Extension{Id: OIDTPM, Value: mustMarshal(make([]byte, TPMNameLen), "")})
		},
	} {
		c := good()
		change(c)
		der, err := x509.CreateCertificate(rand.Reader, c, ca.cert, newKey(t).Public(), ca.key)
		if err != nil {
			continue // it cannot even be made
		}
		parsed, err := x509.ParseCertificate(der)
		if err != nil {
			continue
		}
		if id, err := PersonFromCert(parsed); err == nil {
			t.Errorf("%s: accepted as %+v", name, id)
		}
		if id, err := FromCert(parsed); err == nil && id.Person != "" {
			t.Errorf("%s: accepted as %+v", name, id)
		}
	}
}

func goodInvitation(t testing.TB) (*profilepb.InvitationRecord, ed25519.PrivateKey) {
	public, private, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	now := time.Now().Unix()
	return &profilepb.InvitationRecord{Id: ident.New(), ClusterId: ident.New(), PublicKey: public, Person: "alice",
		MintedAt: now, ExpiresAt: now + 3600, LifeSeconds: 43200}, private
}

func TestInvitation(t *testing.T) {
	r, _ := goodInvitation(t)
	now := time.Unix(r.MintedAt, 0)
	if err := CheckInvitation(r, r.ClusterId, now); err != nil {
		t.Fatal(err)
	}
	if err := CheckInvitation(r, r.ClusterId, now.Add(time.Hour)); err != ErrInvitationExpired {
		t.Errorf("at its end: %v", err)
	}
	if CheckInvitation(r, ident.New(), now) == nil {
		t.Error("an invitation of another cluster is good")
	}
	if CheckInvitation(r, r.ClusterId, now.Add(-MaxSkew-time.Second)) == nil {
		t.Error("an invitation of the future is good")
	}
	for name, change := range map[string]func(*profilepb.InvitationRecord){
		"id":           func(r *profilepb.InvitationRecord) { r.Id = "x" },
		"cluster":      func(r *profilepb.InvitationRecord) { r.ClusterId = "" },
		"key":          func(r *profilepb.InvitationRecord) { r.PublicKey = r.PublicKey[:31] },
		"name":         func(r *profilepb.InvitationRecord) { r.Person = "Alice" },
		"no name":      func(r *profilepb.InvitationRecord) { r.Person = "" },
		"minting":      func(r *profilepb.InvitationRecord) { r.MintedAt = 0 },
		"end":          func(r *profilepb.InvitationRecord) { r.ExpiresAt = r.MintedAt },
		"no end":       func(r *profilepb.InvitationRecord) { r.ExpiresAt = 0 },
		"short life":   func(r *profilepb.InvitationRecord) { r.LifeSeconds = 119 },
		"long life":    func(r *profilepb.InvitationRecord) { r.LifeSeconds = 7*86400 + 1 },
		"no life":      func(r *profilepb.InvitationRecord) { r.LifeSeconds = 0 },
		"endless life": func(r *profilepb.InvitationRecord) { r.LifeSeconds = 1<<32 - 1 },
	} {
		bad := proto.CloneOf(r)
		change(bad)
		if CheckInvitationShape(bad) == nil {
			t.Errorf("%s: accepted", name)
		}
	}
}

// TestRecordsAreApart: what was signed as an invitation is no token, and the other way
// round, though one key signs both.
func TestRecordsAreApart(t *testing.T) {
	public, private, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	r, seed := goodInvitation(t)
	raw, err := proto.Marshal(r)
	if err != nil {
		t.Fatal(err)
	}
	signed := &profilepb.SignedInvitation{Record: raw, Signature: ed25519.Sign(private, InvitationSigningInput(raw))}
	if _, err := OpenInvitation(public, signed); err != nil {
		t.Fatal(err)
	}
	if _, err := OpenInvitation(public, &profilepb.SignedInvitation{Record: raw, Signature: ed25519.Sign(private, TokenSigningInput(raw))}); err == nil {
		t.Error("a token's signature is good for an invitation")
	}
	if _, err := OpenTokenRecord(public, &profilepb.SignedTokenRecord{Record: raw, Signature: signed.Signature}); err == nil {
		t.Error("an invitation's signature is good for a token")
	}
	if _, err := ParseInvitation(append(slices.Clip(raw), 0x78, 1)); err == nil {
		t.Error("an unknown field is accepted")
	}
	exporter := make([]byte, ExporterLen)
	join := ed25519.Sign(seed, JoinProofInput(exporter, []byte("csr"), nil, r.Id))
	if CheckEnrolProof(r.PublicKey, exporter, []byte("csr"), r.Id, join) == nil {
		t.Error("a join's proof takes an invitation")
	}
	proof := ed25519.Sign(seed, EnrolProofInput(exporter, []byte("csr"), r.Id))
	if err := CheckEnrolProof(r.PublicKey, exporter, []byte("csr"), r.Id, proof); err != nil {
		t.Error(err)
	}
	if CheckEnrolProof(r.PublicKey, exporter, []byte("CSR"), r.Id, proof) == nil || CheckEnrolProof(r.PublicKey, exporter, []byte("csr"), ident.New(), proof) == nil ||
		CheckEnrolProof(r.PublicKey, append(slices.Clip(exporter[1:]), 1), []byte("csr"), r.Id, proof) == nil {
		t.Error("a proof is good for another request, invitation or connection")
	}
}

func FuzzParseInvitation(f *testing.F) {
	r, _ := goodInvitation(f)
	raw, err := proto.Marshal(r)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(raw)
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, b []byte) {
		r, err := ParseInvitation(b)
		if err != nil {
			return
		}
		if err := CheckInvitationShape(r); err != nil {
			t.Error(err)
		}
	})
}
