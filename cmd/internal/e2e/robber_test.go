package e2e

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/rand"
	"crypto/x509"
	"encoding/json"
	"net"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/redoubt-cluster/redoubt/autolock"
	"github.com/redoubt-cluster/redoubt/autolock/keyd"
	"github.com/redoubt-cluster/redoubt/autolock/keyd/keydpb"
	"github.com/redoubt-cluster/redoubt/autolock/keydclient"
	"github.com/redoubt-cluster/redoubt/internal/ident"
	"github.com/redoubt-cluster/redoubt/pki"
	"github.com/redoubt-cluster/redoubt/pki/profile"
	"github.com/redoubt-cluster/redoubt/pki/profile/profilepb"
)

// robber has a copy of a manager's disk and the operator key of that day. Its keyd
// is the real one, opened on the copy: all that the old keyset can sign, it signs.
type robber struct {
	t      *testing.T
	keyd   *keydclient.Client
	nodeID string
	// creds and boot are the manager's own.
	creds, boot *pki.Credentials
	keydKey     []byte
}

// steal copies what a disk holds and opens it with the key.
func (a *attack) steal(t *testing.T, host string) *robber {
	t.Helper()
	from, dir := a.host(host).DataDir, t.TempDir()
	state, err := os.ReadFile(filepath.Join(from, "keyd", "state"))
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "state"), state, 0o600); err != nil {
		t.Fatal(err)
	}
	th := &robber{t: t}
	th.serve(dir)
	key, err := autolock.ParseOperatorKey(string(a.key()))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := th.unlocker(dir).Unlock(t.Context(), key.Seed()); err != nil {
		t.Fatalf("the stolen disk does not open with the key of its time: %v", err)
	}
	var leaf struct{ Chain, Sealed json.RawMessage }
	readFile(t, filepath.Join(from, "control", "leaf"), &leaf)
	var chain [][]byte
	var sealed []byte
	if err := json.Unmarshal(leaf.Chain, &chain); err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(leaf.Sealed, &sealed); err != nil {
		t.Fatal(err)
	}
	opened, err := th.keyd.OpenStore(t.Context(), &keydpb.OpenStoreRequest{SealedLeaf: sealed})
	if err != nil {
		t.Fatal(err)
	}
	private, err := x509.ParsePKCS8PrivateKey(opened.GetLeafKey())
	if err != nil {
		t.Fatal(err)
	}
	th.creds = credentials(t, &profilepb.CertificateChain{Certificates: chain}, private.(crypto.Signer))
	th.boot = a.stolen(t, host, "boot")
	th.nodeID, th.keydKey = th.creds.Identity().NodeID, th.creds.Identity().KeydKey
	return th
}

// serve runs keyd on the copy until the test ends.
func (th *robber) serve(dir string) {
	t := th.t
	t.Helper()
	s, err := keyd.New(keyd.Config{Dir: dir, ControlUID: uint32(os.Getuid()), Section: keyd.DefaultSection()})
	if err != nil {
		t.Fatal(err)
	}
	var ls []net.Listener
	for _, name := range []string{"c", "u"} {
		l, err := net.Listen("unix", filepath.Join(dir, name))
		if err != nil {
			t.Fatal(err)
		}
		ls = append(ls, l)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- s.Serve(ctx, ls[0], ls[1]) }()
	th.keyd = keydclient.New(filepath.Join(dir, "c"))
	t.Cleanup(func() {
		th.keyd.Close()
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
}

func (th *robber) unlocker(dir string) *keydclient.Client {
	c := keydclient.New(filepath.Join(dir, "u"))
	th.t.Cleanup(func() { c.Close() })
	return c
}

func credentials(t *testing.T, chain *profilepb.CertificateChain, key crypto.Signer) *pki.Credentials {
	t.Helper()
	trust, err := pki.TrustFromChain(chain, nil)
	if err != nil {
		t.Fatal(err)
	}
	creds, err := pki.NewCredentials(chain, key, trust)
	if err != nil {
		t.Fatal(err)
	}
	return creds
}

// request is a new key and its request.
func (th *robber) request(keydKey []byte) (crypto.Signer, []byte) {
	th.t.Helper()
	key, err := pki.NewKey()
	if err != nil {
		th.t.Fatal(err)
	}
	der, err := profile.NewCSR(key, keydKey)
	if err != nil {
		th.t.Fatal(err)
	}
	return key, der
}

// mint signs a token of the thief's own.
func (th *robber) mint(role profilepb.Role) (pki.Token, *profilepb.SignedTokenRecord) {
	th.t.Helper()
	tok := pki.NewToken()
	resp, err := th.keyd.MintToken(th.t.Context(), &keydpb.MintTokenRequest{Record: &profilepb.TokenRecord{
		Id: tok.ID(), PublicKey: tok.PublicKey(), Role: role, MaxUses: 1, ExpiresAt: time.Now().Add(5 * time.Minute).Unix()}})
	if err != nil {
		th.t.Fatal(err)
	}
	return tok, resp.GetSigned()
}

// forge makes certificates of any node in any role, with the old issuing CA.
func (th *robber) forge(role profilepb.Role, nodeID string) (leaf, boot *pki.Credentials) {
	th.t.Helper()
	key, err := pki.NewKey()
	if err != nil {
		th.t.Fatal(err)
	}
	return th.forgeFor(role, nodeID, key)
}

// forgeFor is forge for a key at hand.
func (th *robber) forgeFor(role profilepb.Role, nodeID string, key *ecdsa.PrivateKey) (leaf, boot *pki.Credentials) {
	t := th.t
	t.Helper()
	tok, signed := th.mint(role)
	req := &keydpb.SignJoinRequest{Token: signed, Exporter: make([]byte, profile.ExporterLen), NodeId: nodeID, NodeName: "forged"}
	rand.Read(req.Exporter)
	var keydKey []byte
	var bootKey crypto.Signer
	if role == profilepb.Role_ROLE_MANAGER {
		keydKey = th.keydKey
		bootKey, req.BootCsr = th.request(nil)
	}
	var err error
	if req.Csr, err = profile.NewCSR(key, keydKey); err != nil {
		t.Fatal(err)
	}
	req.Proof = tok.Sign(profile.JoinProofInput(req.Exporter, req.Csr, req.BootCsr, tok.ID()))
	resp, err := th.keyd.SignJoin(t.Context(), req)
	if err != nil {
		t.Fatal(err)
	}
	leaf = credentials(t, resp.GetLeaf(), key)
	if bootKey != nil {
		boot = credentials(t, resp.GetBoot(), bootKey)
	}
	return leaf, boot
}

// renewed are new certificates of the stolen manager itself.
func (th *robber) renewed() (leaf, boot *pki.Credentials) {
	t := th.t
	t.Helper()
	key, csr := th.request(nil)
	bootKey, bootCSR := th.request(nil)
	resp, err := th.keyd.SignOwn(t.Context(), &keydpb.SignOwnRequest{Csr: csr, BootCsr: bootCSR})
	if err != nil {
		t.Fatal(err)
	}
	return credentials(t, resp.GetLeaf(), key), credentials(t, resp.GetBoot(), bootKey)
}

// forgeries are all that the thief can show, by what they claim to be. It has
// the disks of another manager and of a worker as well, with what lies on them
// in clear.
func (th *robber) forgeries(otherBoot, someWorker *pki.Credentials) map[string]*pki.Credentials {
	const manager, worker = profilepb.Role_ROLE_MANAGER, profilepb.Role_ROLE_WORKER
	other, member := otherBoot.Identity().NodeID, someWorker.Identity().NodeID
	out := map[string]*pki.Credentials{"its leaf": th.creds, "its boot leaf": th.boot, "a worker's leaf of its own id": th.demoted()}
	out["its renewed leaf"], out["its renewed boot leaf"] = th.renewed()
	out["a forged leaf of another manager"], out["a forged boot leaf of another manager"] = th.forge(manager, other)
	out["a forged leaf of another manager with its boot key"], _ = th.forgeFor(manager, other, keyOf(th.t, otherBoot))
	out["a forged leaf of a new manager"], out["a forged boot leaf of a new manager"] = th.forge(manager, ident.New())
	out["a forged leaf of a worker"], _ = th.forge(worker, member)
	out["a manager's leaf for a worker's own key"], _ = th.forgeFor(manager, member, keyOf(th.t, someWorker))
	out["a forged leaf of a new worker"], _ = th.forge(worker, ident.New())
	return out
}

func keyOf(t *testing.T, creds *pki.Credentials) *ecdsa.PrivateKey {
	t.Helper()
	cert, err := creds.GetClientCertificate(nil)
	if err != nil {
		t.Fatal(err)
	}
	return cert.PrivateKey.(*ecdsa.PrivateKey)
}

// demoted is a worker's leaf of the stolen manager's own id.
func (th *robber) demoted() *pki.Credentials {
	t := th.t
	t.Helper()
	key, csr := th.request(nil)
	proof, err := profile.SignRenewProof(keyOf(t, th.creds), csr, nil, th.creds.Leaf().Raw)
	if err != nil {
		t.Fatal(err)
	}
	resp, err := th.keyd.SignRenew(t.Context(), &keydpb.SignRenewRequest{Old: th.creds.Chain(), Csr: csr, Proof: proof, Demote: true})
	if err != nil {
		t.Fatal(err)
	}
	return credentials(t, resp.GetLeaf(), key)
}
