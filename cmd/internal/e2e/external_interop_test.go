//go:build interop

package e2e

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"encoding/pem"
	"math/big"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// stepCA is a real step-ca in a lab host's network.
type stepCA struct {
	c            *cluster
	dir, host    string
	root, signer *x509.Certificate
	cmd          *exec.Cmd
	url          string
}

// newStepCA lays out what a step-ca reads: its two certificates, and the provisioner
// that the cluster prints.
func newStepCA(c *cluster, host string) *stepCA {
	c.t.Helper()
	s := &stepCA{c: c, dir: c.t.TempDir(), host: host, url: "https://" + c.host(host).Address + ":9000"}
	make := func(name string, parent *x509.Certificate, by *ecdsa.PrivateKey) (*x509.Certificate, *ecdsa.PrivateKey) {
		key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
		if err != nil {
			c.t.Fatal(err)
		}
		serial, _ := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 100))
		t := &x509.Certificate{SerialNumber: serial, Subject: pkix.Name{CommonName: "Outside " + name}, IsCA: true, BasicConstraintsValid: true,
			NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(1000 * 24 * time.Hour), KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageCRLSign}
		if parent == nil {
			parent, by = t, key
		}
		der, err := x509.CreateCertificate(rand.Reader, t, parent, key.Public(), by)
		if err != nil {
			c.t.Fatal(err)
		}
		cert, err := x509.ParseCertificate(der)
		if err != nil {
			c.t.Fatal(err)
		}
		return cert, key
	}
	var rootKey, key *ecdsa.PrivateKey
	s.root, rootKey = make("Root", nil, nil)
	s.signer, key = make("Intermediate", s.root, rootKey)
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		c.t.Fatal(err)
	}
	s.write("root.crt", pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: s.root.Raw}))
	s.write("signer.crt", pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: s.signer.Raw}))
	s.write("signer.key", pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}))
	return s
}

func (s *stepCA) write(name string, b []byte) {
	s.c.t.Helper()
	if err := os.WriteFile(filepath.Join(s.dir, name), b, 0o600); err != nil {
		s.c.t.Fatal(err)
	}
}

func (s *stepCA) chain() []byte {
	return append(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: s.signer.Raw}), pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: s.root.Raw})...)
}

// start runs it with what `redoubt ca external provisioner` prints, as an operator
// pastes it.
func (s *stepCA) start(provisioner string) {
	s.c.t.Helper()
	at := func(name string) string { return filepath.Join(s.dir, name) }
	config, err := json.Marshal(map[string]any{
		"root": at("root.crt"), "crt": at("signer.crt"), "key": at("signer.key"), "address": ":9000", "dnsNames": []string{s.c.host(s.host).Address},
		"logger": map[string]string{"format": "text"}, "authority": map[string]any{"provisioners": []json.RawMessage{json.RawMessage(provisioner)}, "backdate": "5m0s"},
	})
	if err != nil {
		s.c.t.Fatal(err)
	}
	s.write("ca.json", config)
	binary := os.Getenv("REDOUBT_STEP_CA")
	if binary == "" {
		s.c.t.Fatal("REDOUBT_STEP_CA names no step-ca: make test-interop builds one")
	}
	s.cmd = exec.Command("nsenter", "--net="+s.c.hostNS(s.host), "--", binary, at("ca.json"))
	s.cmd.Env = append(os.Environ(), "STEPPATH="+s.dir)
	log, err := os.Create(at("log"))
	if err != nil {
		s.c.t.Fatal(err)
	}
	s.cmd.Stdout, s.cmd.Stderr = log, log
	if err := s.cmd.Start(); err != nil {
		s.c.t.Fatal(err)
	}
	s.c.t.Cleanup(func() {
		s.stop()
		log.Close()
		if s.c.t.Failed() {
			b, _ := os.ReadFile(at("log"))
			s.c.t.Logf("step-ca says: %s", b)
		}
	})
}

// set has it sign workers, once it answers.
func (s *stepCA) set(on string) (out string) {
	s.c.t.Helper()
	eventually(s.c.t, 30*time.Second, func() string {
		r := s.c.onIn(on, s.chain(), "ca", "external", "set", s.url, "--chain", "-")
		out = r.stdout
		if r.code != 0 {
			return r.String()
		}
		return ""
	})
	return out
}

func (s *stepCA) stop() {
	if s.cmd.ProcessState == nil {
		_ = s.cmd.Process.Signal(syscall.SIGCONT)
		_ = s.cmd.Process.Kill()
		_ = s.cmd.Wait()
	}
}

// signed says why a worker's certificate is not of this CA: openssl is asked.
func (s *stepCA) signed(name string) string {
	s.c.t.Helper()
	chain := s.c.keptChain(filepath.Join(s.c.host(name).DataDir, "control", "leaf"))
	s.write("leaf.crt", pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: chain[0]}))
	at := func(name string) string { return filepath.Join(s.dir, name) }
	out, err := exec.Command("openssl", "verify", "-x509_strict", "-purpose", "sslclient", "-CAfile", at("root.crt"), "-untrusted", at("signer.crt"), at("leaf.crt")).CombinedOutput()
	if err != nil {
		return name + ": " + string(out)
	}
	return ""
}

// TestInteropExternalCA has a real step-ca sign the cluster's workers: they renew,
// one joins, and the root is replaced. While the step-ca does not answer nobody joins
// as a worker and everybody keeps what he has; it recovers, and is taken away when it
// is gone. The managers' certificates stay the cluster's own.
func TestInteropExternalCA(t *testing.T) {
	t.Parallel()
	c := up(t, "external", 1, 2)
	const m, w = "manager-1", "worker-1"
	s := newStepCA(c, "worker-2")
	c.refused(m, 1, "does not answer", s.chain(), "ca", "external", "set", s.url, "--chain", "-")
	s.start(c.ok(m, "ca", "external", "provisioner"))
	out := s.set(m)
	for _, want := range []string{"signs workers' certificates from now on", "worker-1 has its certificate", "worker-2 has its certificate", "Every connected node"} {
		if !strings.Contains(out, want) {
			t.Errorf("ca external set does not say %q: %s", want, out)
		}
	}
	workers := func(when string) {
		t.Helper()
		for _, h := range []string{w, "worker-2"} {
			eventually(t, 2*time.Minute, func() string {
				if why := s.signed(h); why != "" {
					return when + ": " + why
				}
				return ""
			})
			c.wantState(h, "ready")
		}
	}
	workers("after it was set")
	if out := c.ok(m, "ca", "inspect"); !strings.Contains(out, "signed by the CA at "+s.url) || strings.Contains(out, "FAILING") || strings.Contains(out, "ALARM") {
		t.Errorf("ca inspect: %s", out)
	}
	c.ok(m, "ca", "rotate")
	workers("after the cluster's own issuing CA was replaced")

	// A machine joins by it, and by nobody else while it does not answer.
	c.ok(w, "leave")
	c.ok(m, "node", "rm", "--force", w)
	token, _ := c.token("worker")
	if err := s.cmd.Process.Signal(syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	if r := c.onIn(w, []byte(token), "join", c.addr2377(m)); r.code == 0 || !strings.Contains(r.String(), "it took too long") {
		t.Errorf("a join while the step-ca does not answer: %v", r)
	}
	if out := c.ok(m, "ca", "inspect"); !strings.Contains(out, "FAILING") || !strings.Contains(out, "it took too long") {
		t.Errorf("ca inspect does not say that it fails: %s", out)
	}
	if out := c.ok(m, "events", "--since", "5m", "--until", "0s", "--filter", "type=ca"); !strings.Contains(out, "external-set") || !strings.Contains(out, "external-failing") {
		t.Errorf("there is no event: %s", out)
	}
	if out := c.on(m, "status").String(); !strings.Contains(out, "redoubt ca external rm") {
		t.Errorf("status does not say that it fails: %s", out)
	}
	c.wantState("worker-2", "ready")
	if err := s.cmd.Process.Signal(syscall.SIGCONT); err != nil {
		t.Fatal(err)
	}
	eventually(t, time.Minute, func() string {
		if r := c.onIn(w, []byte(token), "join", c.addr2377(m)); r.code != 0 {
			return r.String()
		}
		return ""
	})
	workers("after one joined")
	if out := c.ok(m, "ca", "external", "show"); strings.Contains(out, "FAILING") {
		t.Errorf("it signs again: %s", out)
	}

	// The root is replaced below it.
	before := c.root(m)
	c.ok(m, "ca", "rotate", "--root")
	second := c.root(m)
	if second == before {
		t.Error("the root was not replaced")
	}
	workers("after the root was replaced")
	for _, h := range []string{m, w, "worker-2"} {
		eventually(t, time.Minute, func() string { return c.trustsOnly(h, second) })
	}

	// It is gone for good: the cluster's own CA signs again.
	s.stop()
	if out := c.ok(m, "ca", "external", "rm"); !strings.Contains(out, "Every connected node") {
		t.Errorf("ca external rm: %s", out)
	}
	for _, h := range []string{w, "worker-2"} {
		if s.signed(h) == "" {
			t.Errorf("%s still has a certificate of the step-ca", h)
		}
		c.wantState(h, "ready")
	}
	c.refused(m, 1, "no external CA is set", nil, "ca", "external", "rm")
	if out := c.ok(m, "ca", "inspect"); strings.Contains(out, "ALARM") || strings.Contains(out, s.url) {
		t.Errorf("ca inspect: %s", out)
	}
}
