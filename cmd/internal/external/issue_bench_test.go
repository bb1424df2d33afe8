package external

import (
	"context"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"encoding/pem"
	"math/big"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"github.com/smallstep/certificates/cas/apiv1"

	"github.com/redoubt-cluster/redoubt/autolock"
	"github.com/redoubt-cluster/redoubt/autolock/keyd"
	"github.com/redoubt-cluster/redoubt/autolock/keyd/keydpb"
	"github.com/redoubt-cluster/redoubt/autolock/keydclient"
	"github.com/redoubt-cluster/redoubt/cmd/internal/external/provisioner"
	"github.com/redoubt-cluster/redoubt/internal/ident"
	"github.com/redoubt-cluster/redoubt/pki/profile"
	"github.com/redoubt-cluster/redoubt/pki/profile/profilepb"
)

// BenchmarkIssue is a worker's leaf from the request to the chain that it takes, by
// the cluster's own CA and by a real step-ca on this machine (REDOUBT_STEP_CA names
// the binary). keyd grants 2,000 at once: -benchtime 500x.
func BenchmarkIssue(b *testing.B) {
	binary := os.Getenv("REDOUBT_STEP_CA")
	if binary == "" {
		b.Skip("REDOUBT_STEP_CA names no step-ca: make $PWD/out/tools/step-ca")
	}
	w := newRenewing(b)
	b.Run("own", func(b *testing.B) {
		for b.Loop() {
			if w.renew(b).Order != nil {
				b.Fatal("it was ordered elsewhere")
			}
		}
	})
	w.stepCA(b, binary)
	var client Client
	b.Run("step-ca", func(b *testing.B) {
		for b.Loop() {
			o := w.renew(b).Order
			root, err := x509.ParseCertificate(o.Root)
			if err != nil {
				b.Fatal(err)
			}
			answer, err := client.Authorized(b.Context(), Order{URL: o.Url, Root: root, Token: o.Token, NotAfter: time.Unix(o.NotAfter, 0)}).
				CreateCertificate(&apiv1.CreateCertificateRequest{CSR: w.csr})
			if err != nil {
				b.Fatal(err)
			}
			if _, err := w.keyd.TakeExternal(b.Context(), &keydpb.TakeExternalRequest{Order: o.Id, Chain: [][]byte{answer.Certificate.Raw}}); err != nil {
				b.Fatal(err)
			}
		}
	})
}

// renewing is a keyd behind its socket, and a worker that asks it for renewals.
type renewing struct {
	keyd    *keydclient.Client
	manager *profilepb.CertificateChain
	old     *profilepb.CertificateChain
	oldLeaf *x509.Certificate
	key     *ecdsa.PrivateKey
	csr     *x509.CertificateRequest
	proof   []byte
}

func must[T any](b testing.TB) func(T, error) T {
	return func(v T, err error) T {
		b.Helper()
		if err != nil {
			b.Fatal(err)
		}
		return v
	}
}

func newKey(b testing.TB) *ecdsa.PrivateKey {
	return must[*ecdsa.PrivateKey](b)(ecdsa.GenerateKey(elliptic.P256(), rand.Reader))
}

func newRenewing(b *testing.B) *renewing {
	b.Helper()
	s := must[*keyd.Server](b)(keyd.New(keyd.Config{Dir: b.TempDir(), ControlUID: uint32(os.Getuid()), Section: keyd.DefaultSection()}))
	run := must[string](b)(os.MkdirTemp("", "keyd")) // short, as socket paths must be
	socket := filepath.Join(run, "keyd")
	control := must[net.Listener](b)(net.Listen("unix", socket))
	unlock := must[net.Listener](b)(net.Listen("unix", filepath.Join(run, "unlock")))
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- s.Serve(ctx, control, unlock) }()
	w := &renewing{keyd: keydclient.New(socket)}
	b.Cleanup(func() { w.keyd.Close(); cancel(); <-done; os.RemoveAll(run) })
	csr := func(key *ecdsa.PrivateKey, keydKey []byte) []byte {
		return must[[]byte](b)(profile.NewCSR(key, keydKey))
	}
	keydKey := must[[]byte](b)(w.keyd.PrepareJoin(b.Context()))
	slot := autolock.NewOperatorKey()
	w.manager = must[*keydpb.InitResponse](b)(w.keyd.Init(b.Context(), &keydpb.InitRequest{NodeId: ident.New(), ManagerCsr: csr(newKey(b), keydKey),
		BootCsr: csr(newKey(b), nil), Slots: []*keydpb.Slot{slot.Slot()}})).Manager

	public, private, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		b.Fatal(err)
	}
	rec := &profilepb.TokenRecord{Id: ident.New(), PublicKey: public, Role: profilepb.Role_ROLE_WORKER, MaxUses: 1, ExpiresAt: time.Now().Add(10 * time.Minute).Unix()}
	token := must[*keydpb.MintTokenResponse](b)(w.keyd.MintToken(b.Context(), &keydpb.MintTokenRequest{Record: rec})).Signed
	w.key = newKey(b)
	join := &keydpb.SignJoinRequest{Token: token, Exporter: make([]byte, profile.ExporterLen), Csr: csr(w.key, nil), NodeId: ident.New(), NodeName: "worker-1"}
	join.Proof = ed25519.Sign(private, profile.JoinProofInput(join.Exporter, join.Csr, nil, rec.Id))
	w.old = must[*keydpb.SignJoinResponse](b)(w.keyd.SignJoin(b.Context(), join)).Leaf
	w.oldLeaf = must[*x509.Certificate](b)(x509.ParseCertificate(w.old.Certificates[0]))
	w.csr = must[*x509.CertificateRequest](b)(x509.ParseCertificateRequest(csr(newKey(b), nil)))
	w.proof = must[[]byte](b)(profile.SignRenewProof(w.key, w.csr.Raw, nil, w.oldLeaf.Raw))
	return w
}

func (w *renewing) renew(b *testing.B) *keydpb.SignRenewResponse {
	b.Helper()
	return must[*keydpb.SignRenewResponse](b)(w.keyd.SignRenew(b.Context(), &keydpb.SignRenewRequest{Old: w.old, Csr: w.csr.Raw, Proof: w.proof}))
}

// stepCA starts a step-ca and has keyd order of it.
func (w *renewing) stepCA(b *testing.B, binary string) {
	b.Helper()
	st := must[*keydpb.StatusResponse](b)(w.keyd.Status(b.Context()))
	s := startStepCA(b, binary, st.ClusterId, st.OrderKey)
	r := must[*keydpb.RotateCAResponse](b)(w.keyd.RotateCA(b.Context(), &keydpb.RotateCARequest{Change: keydpb.CAChange_CA_CHANGE_EXTERNAL,
		External: &keydpb.External{Url: s.url, Provisioner: "redoubt", Chain: [][]byte{s.signer.Raw, s.root.Raw}}, Managers: []*profilepb.CertificateChain{w.manager}}))
	must[*keydpb.AdoptKeysetResponse](b)(w.keyd.AdoptKeyset(b.Context(), &keydpb.AdoptKeysetRequest{Epoch: r.Epoch, SealedKeyset: r.Sealed[0].Sealed}))
}

// stepCA is a real step-ca on this machine.
type stepCA struct {
	url          string
	root, signer *x509.Certificate
	key          *ecdsa.PrivateKey // the signer's
}

// startStepCA starts one with what is printed for a cluster.
func startStepCA(b testing.TB, binary, clusterID string, orderKey []byte) *stepCA {
	b.Helper()
	dir := b.TempDir()
	write := func(name, kind string, der []byte) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}), 0o600); err != nil {
			b.Fatal(err)
		}
		return path
	}
	rootKey, key := newKey(b), newKey(b)
	authority := func(serial int64, name string) *x509.Certificate {
		return &x509.Certificate{SerialNumber: big.NewInt(serial), Subject: pkix.Name{CommonName: name}, IsCA: true, BasicConstraintsValid: true,
			NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(1000 * time.Hour), KeyUsage: x509.KeyUsageCertSign}
	}
	root := authority(1, "Outside Root")
	root = must[*x509.Certificate](b)(x509.ParseCertificate(must[[]byte](b)(x509.CreateCertificate(rand.Reader, root, root, rootKey.Public(), rootKey))))
	signer := must[*x509.Certificate](b)(x509.ParseCertificate(must[[]byte](b)(x509.CreateCertificate(rand.Reader, authority(2, "Outside"), root, key.Public(), rootKey))))
	l := must[net.Listener](b)(net.Listen("tcp", "127.0.0.1:0"))
	address := l.Addr().String()
	l.Close()
	config := must[[]byte](b)(json.Marshal(map[string]any{
		"root": write("root.crt", "CERTIFICATE", root.Raw), "crt": write("signer.crt", "CERTIFICATE", signer.Raw),
		"key": write("signer.key", "PRIVATE KEY", must[[]byte](b)(x509.MarshalPKCS8PrivateKey(key))), "address": address, "dnsNames": []string{"127.0.0.1"},
		"logger": map[string]string{"format": "text"}, "authority": map[string]any{"provisioners": []json.RawMessage{must[[]byte](b)(provisioner.JSON("redoubt", clusterID, orderKey))}},
	}))
	path := filepath.Join(dir, "ca.json")
	if err := os.WriteFile(path, config, 0o600); err != nil {
		b.Fatal(err)
	}
	cmd := exec.Command(binary, path)
	cmd.Env = append(os.Environ(), "STEPPATH="+dir)
	if err := cmd.Start(); err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { _ = cmd.Process.Kill(); _ = cmd.Wait() })
	url := "https://" + address
	var client Client
	for deadline := time.Now().Add(20 * time.Second); ; time.Sleep(50 * time.Millisecond) {
		err := client.Probe(b.Context(), url, root)
		if err == nil {
			break
		}
		if time.Now().After(deadline) {
			b.Fatal(err)
		}
	}
	return &stepCA{url: url, root: root, signer: signer, key: key}
}
