package keyd

import (
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/x509"
	"encoding/hex"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/redoubt-cluster/redoubt/autolock/keyd/keydpb"
	"github.com/redoubt-cluster/redoubt/internal/ident"
	"github.com/redoubt-cluster/redoubt/pki/profile"
	"github.com/redoubt-cluster/redoubt/pki/profile/profilepb"
)

// invitation is one with its secret half.
type invitation struct {
	id      string
	private ed25519.PrivateKey
	signed  *profilepb.SignedInvitation
}

func newInvitation(t *testing.T) (*profilepb.InvitationRecord, ed25519.PrivateKey) {
	t.Helper()
	public, private, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return &profilepb.InvitationRecord{Id: ident.New(), PublicKey: public, Person: "alice",
		ExpiresAt: time.Now().Add(time.Hour).Unix(), LifeSeconds: 43200}, private
}

func (c *cluster) invite(t *testing.T, edit func(*profilepb.InvitationRecord)) *invitation {
	t.Helper()
	rec, private := newInvitation(t)
	if edit != nil {
		edit(rec)
	}
	resp, err := c.MintInvitation(t.Context(), &keydpb.MintInvitationRequest{Record: rec})
	if err != nil {
		t.Fatal(err)
	}
	return &invitation{rec.Id, private, resp.Signed}
}

// ending makes an invitation as keyd signed one an hour ago, which ends in that time.
func (c *cluster) ending(t *testing.T, in time.Duration) *invitation {
	t.Helper()
	rec, private := newInvitation(t)
	now := time.Now()
	rec.ClusterId, rec.MintedAt, rec.ExpiresAt = c.init.ClusterId, now.Add(-time.Hour).Unix(), now.Add(in).Unix()
	raw, err := proto.MarshalOptions{Deterministic: true}.Marshal(rec)
	if err != nil {
		t.Fatal(err)
	}
	k := c.server.secrets.keyset
	return &invitation{rec.Id, private, &profilepb.SignedInvitation{Record: raw, Signature: k.signRecord(profile.InvitationSigningInput(raw)), KeysetEpoch: k.epoch}}
}

// take makes an honest request.
func (i *invitation) take(csr []byte) *keydpb.SignPersonRequest {
	req := &keydpb.SignPersonRequest{Invitation: i.signed, Exporter: make([]byte, profile.ExporterLen), Csr: csr}
	rand.Read(req.Exporter)
	i.prove(req)
	return req
}

func (i *invitation) prove(req *keydpb.SignPersonRequest) {
	req.Proof = ed25519.Sign(i.private, profile.EnrolProofInput(req.Exporter, req.Csr, i.id))
}

// person is somebody with a certificate.
type person struct {
	key   *ecdsa.PrivateKey
	chain *profilepb.CertificateChain
}

func (c *cluster) person(t *testing.T) *person {
	t.Helper()
	p := &person{key: newKey(t)}
	resp, err := c.SignPerson(t.Context(), c.invite(t, nil).take(newCSR(t, p.key, nil)))
	if err != nil {
		t.Fatal(err)
	}
	p.chain = resp.GetLeaf()
	return p
}

// renewal makes an honest request for the next certificate.
func (p *person) renewal(t *testing.T, csr []byte) *keydpb.SignPersonRequest {
	t.Helper()
	proof, err := profile.SignPersonRenew(p.key, csr, p.chain.GetCertificates()[0])
	if err != nil {
		t.Fatal(err)
	}
	return &keydpb.SignPersonRequest{Old: p.chain, Csr: csr, Proof: proof, LifeSeconds: 600}
}

func TestSignPerson(t *testing.T) {
	c := newCluster(t)
	p := c.person(t)
	certs, id, err := profile.ParsePersonChain(p.chain)
	if err != nil || id.Person != "alice" || id.ClusterID != c.init.ClusterId || certs[0].NotAfter.Sub(certs[0].NotBefore) != profile.PersonLife+profile.Backdate {
		t.Fatalf("%+v, %v", id, err)
	}
	roots, issuers := x509.NewCertPool(), x509.NewCertPool()
	root, err := x509.ParseCertificate(c.rootDER())
	if err != nil {
		t.Fatal(err)
	}
	roots.AddCert(root)
	issuers.AddCert(certs[1])
	if _, err := certs[0].Verify(x509.VerifyOptions{Roots: roots, Intermediates: issuers, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}}); err != nil {
		t.Error(err)
	}
	if _, err := certs[0].Verify(x509.VerifyOptions{Roots: roots, Intermediates: issuers, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}}); err == nil {
		t.Error("a person can be a server")
	}
	resp, err := c.SignPerson(t.Context(), p.renewal(t, newCSR(t, newKey(t), nil)))
	if err != nil {
		t.Fatal(err)
	}
	next, id, err := profile.ParsePersonChain(resp.GetLeaf())
	if err != nil || id.Person != "alice" || next[0].NotAfter.Sub(next[0].NotBefore) != 10*time.Minute+profile.Backdate {
		t.Errorf("%+v, %v", id, err)
	}
}

func TestMintInvitationRefuses(t *testing.T) {
	c := newCluster(t)
	for name, edit := range map[string]func(*profilepb.InvitationRecord){
		"another cluster": func(r *profilepb.InvitationRecord) { r.ClusterId = ident.New() },
		"too long":        func(r *profilepb.InvitationRecord) { r.ExpiresAt = time.Now().Add(8 * 24 * time.Hour).Unix() },
		"no end":          func(r *profilepb.InvitationRecord) { r.ExpiresAt = 0 },
		"ended":           func(r *profilepb.InvitationRecord) { r.ExpiresAt = time.Now().Unix() - 1 },
		"a long life":     func(r *profilepb.InvitationRecord) { r.LifeSeconds = 8 * 86400 },
		"a node's name":   func(r *profilepb.InvitationRecord) { r.Person = ident.New() },
	} {
		rec, _ := newInvitation(t)
		edit(rec)
		if _, err := c.MintInvitation(t.Context(), &keydpb.MintInvitationRequest{Record: rec}); err == nil {
			t.Errorf("%s: minted", name)
		}
	}
	if _, err := c.MintInvitation(t.Context(), &keydpb.MintInvitationRequest{}); err == nil {
		t.Error("minted without a record")
	}
}

// A redoubtd that lies gets no certificate of a person, and none of a node by one.
func TestSignPersonRefusesLies(t *testing.T) {
	c, foreign := newCluster(t), newCluster(t)
	csr := func() []byte { return newCSR(t, newKey(t), nil) }
	wantsInvited := func(name string, lie func(*invitation, *keydpb.SignPersonRequest), want keydpb.Code) {
		t.Helper()
		i := c.invite(t, nil)
		req := i.take(csr())
		lie(i, req)
		_, err := c.SignPerson(t.Context(), req)
		if err == nil {
			t.Errorf("%s: signed", name)
			return
		}
		wantCode(t, err, want)
	}
	const denied, invalid = keydpb.Code_CODE_DENIED, keydpb.Code_CODE_INVALID
	wantsInvited("nothing shown", func(_ *invitation, r *keydpb.SignPersonRequest) { r.Invitation = nil }, invalid)
	wantsInvited("a foreign invitation", func(_ *invitation, r *keydpb.SignPersonRequest) {
		become(r, foreign.invite(t, nil).take(r.Csr))
	}, denied)
	wantsInvited("another name in the record", func(i *invitation, r *keydpb.SignPersonRequest) {
		rec, err := profile.ParseInvitation(i.signed.GetRecord())
		if err != nil {
			t.Fatal(err)
		}
		rec.Person = "root"
		raw, _ := proto.Marshal(rec)
		r.Invitation = &profilepb.SignedInvitation{Record: raw, Signature: i.signed.Signature}
	}, denied)
	wantsInvited("a token's record", func(_ *invitation, r *keydpb.SignPersonRequest) {
		tok := c.mint(t, worker, nil)
		r.Invitation = &profilepb.SignedInvitation{Record: tok.signed.Record, Signature: tok.signed.Signature}
	}, denied)
	wantsInvited("no proof", func(_ *invitation, r *keydpb.SignPersonRequest) { r.Proof = nil }, denied)
	wantsInvited("another request", func(_ *invitation, r *keydpb.SignPersonRequest) { r.Csr = csr() }, denied)
	wantsInvited("another connection", func(_ *invitation, r *keydpb.SignPersonRequest) { r.Exporter[0] ^= 1 }, denied)
	wantsInvited("a keyd key", func(i *invitation, r *keydpb.SignPersonRequest) {
		r.Csr = newCSR(t, newKey(t), c.keydKey)
		i.prove(r)
	}, invalid)
	wantsInvited("a certificate, too", func(_ *invitation, r *keydpb.SignPersonRequest) { r.Old = c.init.Manager }, invalid)

	i := c.invite(t, nil)
	req := i.take(csr())
	if _, err := c.SignPerson(t.Context(), req); err != nil {
		t.Fatal(err)
	}
	_, err := c.SignPerson(t.Context(), req)
	wantCode(t, err, denied) // the same connection

	if _, err := c.SignPerson(t.Context(), c.ending(t, time.Minute).take(csr())); err != nil {
		t.Errorf("an invitation that has not ended: %v", err)
	}
	_, err = c.SignPerson(t.Context(), c.ending(t, 0).take(csr()))
	wantCode(t, err, denied)

	p := c.person(t)
	wantsRenewal := func(name string, lie func(*keydpb.SignPersonRequest), want keydpb.Code) {
		t.Helper()
		req := p.renewal(t, csr())
		lie(req)
		if _, err := c.SignPerson(t.Context(), req); err == nil {
			t.Errorf("%s: renewed", name)
		} else {
			wantCode(t, err, want)
		}
	}
	wantsRenewal("no proof", func(r *keydpb.SignPersonRequest) { r.Proof = nil }, denied)
	wantsRenewal("another request", func(r *keydpb.SignPersonRequest) { r.Csr = csr() }, denied)
	wantsRenewal("the same key", func(r *keydpb.SignPersonRequest) { become(r, p.renewal(t, newCSR(t, p.key, nil))) }, denied)
	wantsRenewal("too long a life", func(r *keydpb.SignPersonRequest) { r.LifeSeconds = 8 * 86400 }, denied)
	wantsRenewal("no life", func(r *keydpb.SignPersonRequest) { r.LifeSeconds = 0 }, denied)
	wantsRenewal("a foreign certificate", func(r *keydpb.SignPersonRequest) { become(r, foreign.person(t).renewal(t, r.Csr)) }, denied)
	wantsRenewal("a manager's certificate", func(r *keydpb.SignPersonRequest) {
		proof, err := profile.SignPersonRenew(c.leafKey, r.Csr, c.init.Manager.GetCertificates()[0])
		if err != nil {
			t.Fatal(err)
		}
		r.Old, r.Proof = c.init.Manager, proof
	}, invalid)

	// A person's certificate is nothing where a node's is asked for.
	renew := newCSR(t, newKey(t), nil)
	proof, err := profile.SignRenewProof(p.key, renew, nil, p.chain.GetCertificates()[0])
	if err != nil {
		t.Fatal(err)
	}
	if _, err := c.SignRenew(t.Context(), &keydpb.SignRenewRequest{Old: p.chain, Csr: renew, Proof: proof}); err == nil {
		t.Error("a person renews as a node")
	}
	if _, err := c.SealKeyset(t.Context(), &keydpb.SealKeysetRequest{Manager: p.chain}); err == nil {
		t.Error("the keyset is sealed to a person")
	}
	tok := c.mint(t, worker, nil)
	join := tok.join(t, renew, nil)
	join.Token = &profilepb.SignedTokenRecord{Record: i.signed.Record, Signature: i.signed.Signature}
	if _, err := c.SignJoin(t.Context(), join); err == nil {
		t.Error("an invitation makes a node")
	}
}

// TestPeopleAreJournalled: what was signed is on record, and what is locked signs nothing.
func TestPeopleAreJournalled(t *testing.T) {
	c := newCluster(t)
	p := c.person(t)
	certs, _, err := profile.ParsePersonChain(p.chain)
	if err != nil {
		t.Fatal(err)
	}
	// Under whom it was for: a person's key vouches for no node's certificate.
	resp, err := c.Journalled(t.Context(), &keydpb.JournalledRequest{NodeId: c.nodeID, Spki: [][]byte{profile.SPKIHash(certs[0])}})
	if err != nil || resp.GetKnown()[0] {
		t.Errorf("%v, %v", resp.GetKnown(), err)
	}
	if journal, err := os.ReadFile(filepath.Join(c.dir, journalName)); err != nil ||
		!strings.Contains(string(journal), hex.EncodeToString(profile.SPKIHash(certs[0]))) || !strings.Contains(string(journal), `"node":"person/alice"`) {
		t.Errorf("the journal does not name the person and the key: %v", err)
	}
	req := c.invite(t, nil).take(newCSR(t, newKey(t), nil))
	c.restart(t)
	_, err = c.SignPerson(t.Context(), req)
	wantCode(t, err, keydpb.Code_CODE_LOCKED)
	rec, _ := newInvitation(t)
	_, err = c.MintInvitation(t.Context(), &keydpb.MintInvitationRequest{Record: rec})
	wantCode(t, err, keydpb.Code_CODE_LOCKED)
}

func become(r, other *keydpb.SignPersonRequest) {
	proto.Reset(r)
	proto.Merge(r, other)
}
