package keyd

import (
	"bytes"
	"crypto"
	"crypto/rand"
	"crypto/x509"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/redoubt-cluster/redoubt/autolock/keyd/keydpb"
	"github.com/redoubt-cluster/redoubt/internal/ident"
	"github.com/redoubt-cluster/redoubt/pki/profile"
	"github.com/redoubt-cluster/redoubt/pki/profile/profilepb"
)

const (
	worker  = profilepb.Role_ROLE_WORKER
	manager = profilepb.Role_ROLE_MANAGER
	boot    = profilepb.Role_ROLE_BOOT
)

func TestSignJoin(t *testing.T) {
	c := newCluster(t)
	w := c.mint(t, worker, nil).join(t, newCSR(t, newKey(t), nil), nil)
	resp, err := c.SignJoin(t.Context(), w)
	if err != nil {
		t.Fatal(err)
	}
	id, err := profile.NodeFromCert(leafOf(t, resp.Leaf, c.rootDER()))
	if err != nil || id.Role != worker || id.NodeID != w.NodeId || id.ClusterID != c.init.ClusterId || resp.Boot != nil {
		t.Errorf("%+v, %v, boot %v", id, err, resp.Boot)
	}
	joiner := start(t, t.TempDir())
	keydKey, err := joiner.PrepareJoin(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	m := c.mint(t, manager, nil).join(t, newCSR(t, newKey(t), keydKey), newCSR(t, newKey(t), nil))
	if resp, err = c.SignJoin(t.Context(), m); err != nil {
		t.Fatal(err)
	}
	id, err = profile.NodeFromCert(leafOf(t, resp.Leaf, c.rootDER()))
	if err != nil || id.Role != manager || !bytes.Equal(id.KeydKey, keydKey) {
		t.Errorf("manager leaf: role %v, %v", id.Role, err)
	}
	if id, err = profile.NodeFromCert(leafOf(t, resp.Boot, c.rootDER())); err != nil || id.Role != boot || id.NodeID != m.NodeId {
		t.Errorf("boot leaf: %+v, %v", id, err)
	}
}

// A redoubtd that lies gets nothing.
func TestSignJoinRefusesLies(t *testing.T) {
	c, foreign := newCluster(t), newCluster(t)
	keydKey := c.keydKey
	rec, _ := newRecord(t, worker)
	selfMade, err := proto.Marshal(rec)
	if err != nil {
		t.Fatal(err)
	}
	named := func(r *profilepb.TokenRecord) { r.NodeName = "alice" }
	brief := func(r *profilepb.TokenRecord) { r.ExpiresAt = time.Now().Add(2 * time.Second).Unix() }
	type lie func(tok *token, req *keydpb.SignJoinRequest)
	proved := func(f func(*keydpb.SignJoinRequest)) lie {
		return func(tok *token, req *keydpb.SignJoinRequest) { f(req); tok.prove(req) }
	}
	for name, tc := range map[string]struct {
		role profilepb.Role
		edit func(*profilepb.TokenRecord)
		lie  lie
		want keydpb.Code
	}{
		"no token":      {worker, nil, func(_ *token, r *keydpb.SignJoinRequest) { r.Token = nil }, keydpb.Code_CODE_DENIED},
		"foreign token": {worker, nil, func(_ *token, r *keydpb.SignJoinRequest) { r.Token = foreign.mint(t, worker, nil).signed }, keydpb.Code_CODE_DENIED},
		"record made up": {worker, nil, func(_ *token, r *keydpb.SignJoinRequest) {
			r.Token = &profilepb.SignedTokenRecord{Record: selfMade, Signature: r.Token.Signature}
		}, keydpb.Code_CODE_DENIED},
		"role changed in the record": {worker, nil, func(tok *token, r *keydpb.SignJoinRequest) {
			rec, _ := profile.ParseTokenRecord(r.Token.Record)
			rec.Role = manager
			raw, _ := proto.Marshal(rec)
			r.Token = &profilepb.SignedTokenRecord{Record: raw, Signature: r.Token.Signature}
		}, keydpb.Code_CODE_DENIED},
		"used up":                       {worker, nil, func(_ *token, r *keydpb.SignJoinRequest) { r.Uses = 1 }, keydpb.Code_CODE_DENIED},
		"another node name":             {worker, named, func(*token, *keydpb.SignJoinRequest) {}, keydpb.Code_CODE_DENIED},
		"no proof":                      {worker, nil, func(_ *token, r *keydpb.SignJoinRequest) { r.Proof = nil }, keydpb.Code_CODE_DENIED},
		"another connection":            {worker, nil, func(_ *token, r *keydpb.SignJoinRequest) { r.Exporter[0] ^= 1 }, keydpb.Code_CODE_DENIED},
		"short exporter":                {worker, nil, proved(func(r *keydpb.SignJoinRequest) { r.Exporter = r.Exporter[1:] }), keydpb.Code_CODE_DENIED},
		"another key than the joiner's": {worker, nil, func(_ *token, r *keydpb.SignJoinRequest) { r.Csr = newCSR(t, newKey(t), nil) }, keydpb.Code_CODE_DENIED},
		"boot leaf slipped in":          {worker, nil, func(_ *token, r *keydpb.SignJoinRequest) { r.BootCsr = newCSR(t, newKey(t), nil) }, keydpb.Code_CODE_DENIED},
		"worker with a boot leaf":       {worker, nil, proved(func(r *keydpb.SignJoinRequest) { r.BootCsr = newCSR(t, newKey(t), nil) }), keydpb.Code_CODE_DENIED},
		"worker with a keyd key":        {worker, nil, proved(func(r *keydpb.SignJoinRequest) { r.Csr = newCSR(t, newKey(t), keydKey) }), keydpb.Code_CODE_DENIED},
		"manager without a keyd key":    {manager, nil, proved(func(r *keydpb.SignJoinRequest) { r.BootCsr = newCSR(t, newKey(t), nil) }), keydpb.Code_CODE_INVALID},
		"manager without a boot leaf":   {manager, nil, proved(func(r *keydpb.SignJoinRequest) { r.Csr = newCSR(t, newKey(t), keydKey) }), keydpb.Code_CODE_INVALID},
		"one key for both leaves": {manager, nil, proved(func(r *keydpb.SignJoinRequest) {
			key := newKey(t)
			r.Csr, r.BootCsr = newCSR(t, key, keydKey), newCSR(t, key, nil)
		}), keydpb.Code_CODE_INVALID},
		"garbage for a CSR": {worker, nil, proved(func(r *keydpb.SignJoinRequest) { r.Csr = []byte("x") }), keydpb.Code_CODE_INVALID},
		"names in the CSR": {worker, nil, proved(func(r *keydpb.SignJoinRequest) {
			r.Csr, _ = x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{DNSNames: []string{"evil"}}, newKey(t))
		}), keydpb.Code_CODE_INVALID},
		"this manager's own node id": {worker, nil, func(_ *token, r *keydpb.SignJoinRequest) { r.NodeId = c.nodeID }, keydpb.Code_CODE_DENIED},
		"node id that is a path":     {worker, nil, func(_ *token, r *keydpb.SignJoinRequest) { r.NodeId = "../../x" }, keydpb.Code_CODE_INVALID},
		"node name with a space":     {worker, nil, func(_ *token, r *keydpb.SignJoinRequest) { r.NodeName = "a b" }, keydpb.Code_CODE_INVALID},
		"expired": {worker, brief, func(tok *token, r *keydpb.SignJoinRequest) {
			rec, _ := profile.ParseTokenRecord(r.Token.Record)
			<-time.After(time.Until(time.Unix(rec.ExpiresAt, 0)) + 10*time.Millisecond) // the event itself
		}, keydpb.Code_CODE_DENIED},
	} {
		t.Run(name, func(t *testing.T) {
			tok := c.mint(t, tc.role, tc.edit)
			req := tok.join(t, newCSR(t, newKey(t), nil), nil)
			tc.lie(tok, req)
			resp, err := c.SignJoin(t.Context(), req)
			wantCode(t, err, tc.want)
			if resp != nil {
				t.Error("it got an answer")
			}
		})
	}
	tok := c.mint(t, worker, nil)
	req := tok.join(t, newCSR(t, newKey(t), nil), nil)
	if _, err := c.SignJoin(t.Context(), req); err != nil {
		t.Fatal(err)
	}
	_, err = c.SignJoin(t.Context(), req) // use count still "0": replayed
	wantCode(t, err, keydpb.Code_CODE_DENIED)
	req.NodeId = ident.New()
	_, err = c.SignJoin(t.Context(), req)
	wantCode(t, err, keydpb.Code_CODE_DENIED)
}

// age gives the cluster a keyset that was made a while ago.
func (c *cluster) age(t *testing.T, by time.Duration) {
	t.Helper()
	k, err := newKeyset(time.Now().Add(-by))
	if err != nil {
		t.Fatal(err)
	}
	c.server.mu.Lock()
	defer c.server.mu.Unlock()
	c.server.secrets.keyset.destroy()
	c.server.secrets.keyset = k
	c.init.ClusterId, c.init.Manager.Certificates[2] = k.clusterID, k.root.Raw
}

// renewal is an honest request to renew old, whose key is key.
func renewal(t *testing.T, old *profilepb.CertificateChain, key crypto.Signer, csr []byte) *keydpb.SignRenewRequest {
	t.Helper()
	proof, err := profile.SignRenewProof(key, csr, nil, old.Certificates[0])
	if err != nil {
		t.Fatal(err)
	}
	return &keydpb.SignRenewRequest{Old: old, Csr: csr, Proof: proof}
}

// forge issues a leaf with any identity and life under the keyset's own CA.
func (c *cluster) forge(t *testing.T, id profile.Identity, key crypto.Signer, at time.Time, life time.Duration) *profilepb.CertificateChain {
	t.Helper()
	k := c.server.secrets.keyset
	tmpl := profile.LeafTemplate(id, at, life)
	tmpl.SerialNumber = newSerial()
	der, err := x509.CreateCertificate(rand.Reader, tmpl, k.issuing, key.Public(), scalarSignerOf(k))
	if err != nil {
		t.Fatal(err)
	}
	return &profilepb.CertificateChain{Certificates: [][]byte{der, k.issuing.Raw, k.root.Raw}}
}

func TestSignRenew(t *testing.T) {
	c, foreign := newCluster(t), newCluster(t)
	now, day := time.Now(), 24*time.Hour
	c.age(t, 60*day) // a cluster older than the leaves below
	key := newKey(t)
	id := profile.Identity{ClusterID: c.init.ClusterId, NodeID: ident.New(), Role: worker}
	bootID, managerID, elsewhere := id, id, id
	bootID.Role = boot
	managerID.Role, managerID.KeydKey = manager, c.keydKey
	elsewhere.ClusterID = foreign.init.ClusterId
	fresh := func() []byte { return newCSR(t, newKey(t), nil) }
	otherKeyd, err := newPrepared()
	if err != nil {
		t.Fatal(err)
	}
	defer otherKeyd.destroy()

	for name, tc := range map[string]struct {
		old  *profilepb.CertificateChain
		csr  []byte
		want keydpb.Code
	}{
		"worker":                     {c.forge(t, id, key, now, day), fresh(), 0},
		"worker expired for 29 days": {c.forge(t, id, key, now.Add(-30*day), day), fresh(), 0},
		"worker expired for 31 days": {c.forge(t, id, key, now.Add(-32*day), day), fresh(), keydpb.Code_CODE_DENIED},
		"worker not valid yet":       {c.forge(t, id, key, now.Add(day), day), fresh(), keydpb.Code_CODE_DENIED},
		"manager":                    {c.forge(t, managerID, key, now, day), newCSR(t, newKey(t), c.keydKey), 0},
		"manager expired":            {c.forge(t, managerID, key, now.Add(-2*day), day), newCSR(t, newKey(t), c.keydKey), keydpb.Code_CODE_DENIED},
		"manager with another keyd":  {c.forge(t, managerID, key, now, day), newCSR(t, newKey(t), otherKeyd.public), keydpb.Code_CODE_DENIED},
		"worker turning manager":     {c.forge(t, id, key, now, day), newCSR(t, newKey(t), c.keydKey), keydpb.Code_CODE_DENIED},
		"boot leaf":                  {c.forge(t, bootID, key, now, day), fresh(), keydpb.Code_CODE_DENIED},
		"the same key again":         {c.forge(t, id, key, now, day), newCSR(t, key, nil), keydpb.Code_CODE_DENIED},
		"foreign CA":                 {foreign.forge(t, elsewhere, key, now, day), fresh(), keydpb.Code_CODE_DENIED},
		"foreign CA with our names":  {foreign.forge(t, id, key, now, day), fresh(), keydpb.Code_CODE_DENIED},
		"our CA with foreign names":  {c.forge(t, elsewhere, key, now, day), fresh(), keydpb.Code_CODE_DENIED},
		"no leaf":                    {&profilepb.CertificateChain{Certificates: [][]byte{c.rootDER()}}, fresh(), keydpb.Code_CODE_INVALID},
	} {
		req := &keydpb.SignRenewRequest{Old: tc.old, Csr: tc.csr}
		if proof, err := profile.SignRenewProof(key, tc.csr, nil, tc.old.Certificates[0]); err == nil {
			req.Proof = proof
		}
		resp, err := c.SignRenew(t.Context(), req)
		if codeName(err) != tc.want {
			t.Errorf("%s: got %v, want %v", name, err, tc.want)
		}
		if err == nil {
			old, _ := x509.ParseCertificate(tc.old.Certificates[0])
			was, _ := profile.NodeFromCert(old)
			is, err := profile.NodeFromCert(leafOf(t, resp.Leaf, c.rootDER()))
			if err != nil || is.NodeID != was.NodeID || is.Role != was.Role || !bytes.Equal(is.KeydKey, was.KeydKey) {
				t.Errorf("%s: renewed as %+v, %v", name, is, err)
			}
		}
	}
	old := c.forge(t, id, key, now, day)
	req := renewal(t, old, newKey(t), fresh()) // proof by somebody else
	_, err = c.SignRenew(t.Context(), req)
	wantCode(t, err, keydpb.Code_CODE_DENIED)
	req = renewal(t, old, key, fresh())
	req.Csr = fresh() // proof for another request
	_, err = c.SignRenew(t.Context(), req)
	wantCode(t, err, keydpb.Code_CODE_DENIED)
	req = renewal(t, c.forge(t, managerID, key, now, day), key, newCSR(t, newKey(t), c.keydKey))
	req.BootCsr = fresh() // a boot leaf the proof does not cover
	_, err = c.SignRenew(t.Context(), req)
	wantCode(t, err, keydpb.Code_CODE_DENIED)
}

func TestWorkerLeafLifetimeIsConfigured(t *testing.T) {
	c := newCluster(t)
	c.server.cfg.Section.WorkerLeafLifetime = 3 * time.Hour
	resp, err := c.SignJoin(t.Context(), c.mint(t, worker, nil).join(t, newCSR(t, newKey(t), nil), nil))
	if err != nil {
		t.Fatal(err)
	}
	leaf := leafOf(t, resp.Leaf, c.rootDER())
	if life := leaf.NotAfter.Sub(leaf.NotBefore); life != 3*time.Hour+profile.Backdate {
		t.Errorf("a worker's leaf lives for %s", life)
	}
	for _, bad := range []time.Duration{0, -1, time.Minute, 91 * 24 * time.Hour} {
		if (Section{WorkerLeafLifetime: bad}).Validate() == nil {
			t.Errorf("a life of %s was accepted", bad)
		}
	}
}

func TestSignOwn(t *testing.T) {
	c := newCluster(t)
	resp, err := c.SignOwn(t.Context(), &keydpb.SignOwnRequest{Csr: newCSR(t, newKey(t), c.keydKey)})
	if err != nil {
		t.Fatal(err)
	}
	id, err := profile.NodeFromCert(leafOf(t, resp.Leaf, c.rootDER()))
	if err != nil || id.NodeID != c.nodeID || id.Role != manager || resp.Boot != nil {
		t.Errorf("%+v, %v", id, err)
	}
	if !bytes.Equal(id.KeydKey, c.keydKey) {
		t.Error("the leaf certifies another keyd key")
	}
	resp, err = c.SignOwn(t.Context(), &keydpb.SignOwnRequest{Csr: newCSR(t, newKey(t), nil), BootCsr: newCSR(t, newKey(t), nil)})
	if err != nil {
		t.Fatal(err)
	}
	if id, err = profile.NodeFromCert(leafOf(t, resp.Leaf, c.rootDER())); err != nil || !bytes.Equal(id.KeydKey, c.keydKey) {
		t.Errorf("keyd did not certify its own key: %v", err)
	}
	leafOf(t, resp.Boot, c.rootDER())
	other, err := newPrepared()
	if err != nil {
		t.Fatal(err)
	}
	defer other.destroy()
	_, err = c.SignOwn(t.Context(), &keydpb.SignOwnRequest{Csr: newCSR(t, newKey(t), other.public)})
	wantCode(t, err, keydpb.Code_CODE_DENIED)
}

func TestSealKeysetOnlyToCertifiedManagers(t *testing.T) {
	c, foreign := newCluster(t), newCluster(t)
	now := time.Now()
	key := newKey(t)
	id := profile.Identity{ClusterID: c.init.ClusterId, NodeID: ident.New(), Role: manager, KeydKey: c.keydKey}
	w, none := id, id
	w.Role = worker
	none.KeydKey = nil
	for name, tc := range map[string]struct {
		chain *profilepb.CertificateChain
		want  keydpb.Code
	}{
		"manager":             {c.forge(t, id, key, now, time.Hour), 0},
		"worker":              {c.forge(t, w, key, now, time.Hour), keydpb.Code_CODE_DENIED},
		"boot leaf":           {c.init.Boot, keydpb.Code_CODE_DENIED},
		"no keyd key":         {c.forge(t, none, key, now, time.Hour), keydpb.Code_CODE_DENIED},
		"expired":             {c.forge(t, id, key, now.Add(-2*time.Hour), time.Hour), keydpb.Code_CODE_DENIED},
		"foreign":             {foreign.init.Manager, keydpb.Code_CODE_DENIED},
		"foreign, our naming": {foreign.forge(t, id, key, now, time.Hour), keydpb.Code_CODE_DENIED},
		"nothing":             {nil, keydpb.Code_CODE_INVALID},
	} {
		resp, err := c.SealKeyset(t.Context(), &keydpb.SealKeysetRequest{Manager: tc.chain})
		if codeName(err) != tc.want || (err != nil) == (resp != nil) {
			t.Errorf("%s: %v, want %v", name, err, tc.want)
		}
	}
}
