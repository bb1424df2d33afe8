package e2e

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"io"
	"log"
	"math/big"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/redoubt-cluster/redoubt/cmd/internal/tlogwitness/tlogwitnesstest"
)

const witnessName = "witness.example/w1"

// outsideServer is something that is reached by HTTPS from the lab's hosts, with a
// certificate of its own.
type outsideServer struct {
	t    *testing.T
	cert tls.Certificate
	ca   string // file
	addr string
	srv  *http.Server
	done chan error
}

func newOutsideServer(c *cluster) *outsideServer {
	c.t.Helper()
	s := &outsideServer{t: c.t, ca: filepath.Join(c.t.TempDir(), "ca.pem"), addr: c.gateway() + ":0"}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		c.t.Fatal(err)
	}
	tmpl := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "Outside"}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(24 * time.Hour),
		IPAddresses: []net.IP{net.ParseIP(c.gateway())}, KeyUsage: x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign, IsCA: true, BasicConstraintsValid: true}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, tmpl, key.Public(), key)
	if err != nil {
		c.t.Fatal(err)
	}
	s.cert = tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}
	c.write(s.ca, string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})))
	c.t.Cleanup(s.stop)
	return s
}

// serve has h answer, at the same address as before.
func (s *outsideServer) serve(h http.Handler) {
	s.t.Helper()
	l, err := net.Listen("tcp", s.addr)
	if err != nil {
		s.t.Fatal(err)
	}
	s.addr = l.Addr().String()
	s.srv = &http.Server{Handler: h, TLSConfig: &tls.Config{Certificates: []tls.Certificate{s.cert}, MinVersion: tls.VersionTLS13}, ErrorLog: log.New(io.Discard, "", 0)}
	s.done = make(chan error, 1)
	go func() { s.done <- s.srv.ServeTLS(l, "", "") }()
}

func (s *outsideServer) stop() {
	if s.srv != nil {
		s.srv.Close()
		<-s.done
		s.srv = nil
	}
}

func (s *outsideServer) url() string { return "https://" + s.addr }

// TestWitnessOutside: a witness outside of the cluster cosigns the audit log as it grows.
// While it is away writes go on, the control fails, and once it is back it has all of it
// cosigned. Then whoever has the only manager's disk and all of its keys rewrites a
// record and has keyd forget what it signed: all in the cluster agrees with that, and
// the witness does not.
func TestWitnessOutside(t *testing.T) {
	t.Parallel()
	c := up(t, "witness", 1, 0)
	const m, was, is = "manager-1", "zone-of-truth", "zone-of-dream"
	c.lab("stop", m)
	c.logStore(c.host(m), "bolt")
	c.lab("start", "--unlock", m)
	c.ok(m, "node", "update", m, "--label-add", "place="+was)
	record := c.recordWith(m, was)
	origin, key := c.logKey(m)

	dir := t.TempDir()
	w, err := tlogwitnesstest.New(dir, witnessName)
	if err == nil {
		err = w.Trust(key)
	}
	if err != nil {
		t.Fatal(err)
	}
	out := newOutsideServer(c)
	out.serve(w)
	if got := c.witnessed(m); got != "not-applicable" {
		t.Errorf("before there is a witness, audit-witnessed is %s", got)
	}
	c.ok(m, "audit", "witness", "set", out.url(), "--key", w.Key(), "--ca", out.ca)
	kept := filepath.Join(dir, "kept")
	eventually(t, 2*time.Minute, func() string {
		r := c.on(m, "audit", "checkpoint")
		if c.write(kept, r.stdout); !strings.Contains(r.stdout, "\n— "+witnessName+" ") || int(w.Size(origin)) <= record {
			return r.String()
		}
		if r := c.on(m, "audit", "verify", "--checkpoint", kept, "--witness-key", w.Key()); r.code != 0 || !strings.Contains(r.stderr, "witness "+witnessName+" cosigned it on ") {
			return r.String()
		}
		return ""
	})
	if got := c.witnessed(m); got != "pass" {
		t.Errorf("the witness cosigns, and audit-witnessed is %s", got)
	}

	out.stop()
	began := time.Now()
	c.ok(m, "node", "update", m, "--label-add", "later=1")
	if took := time.Since(began); took > 10*time.Second {
		t.Errorf("a write took %v while the witness was away", took)
	}
	eventually(t, 5*time.Minute, func() string {
		if got := c.witnessed(m); got != "fail" {
			return "audit-witnessed is " + got
		}
		return ""
	})
	t.Logf("red %v after the write that nobody saw", time.Since(began).Round(time.Second))
	if out := c.ok(m, "audit", "witness", "ls"); !strings.Contains(out, " failing ") || !strings.Contains(out, "connection refused") {
		t.Errorf("%s", out)
	}
	if w, err = tlogwitnesstest.New(dir, witnessName); err != nil { // with what is on its disk
		t.Fatal(err)
	}
	back := time.Now()
	out.serve(w)
	eventually(t, 3*time.Minute, func() string {
		if got := c.witnessed(m); got != "pass" {
			return "audit-witnessed is " + got + c.ok(m, "audit", "witness", "ls")
		}
		return ""
	})
	t.Logf("caught up %v after it was back", time.Since(back).Round(time.Second))

	cosigned := w.Size(origin)
	c.lab("stop", m)
	if n := c.editLog(m, []byte(was), []byte(is)); n == 0 {
		t.Fatal("no log entry was edited")
	}
	if err := os.Remove(filepath.Join(c.host(m).DataDir, "keyd", "checkpoint")); err != nil {
		t.Fatal(err)
	}
	c.lab("start", "--unlock", m)
	c.ok(m, "node", "update", m, "--label-add", "later=2")
	if r := c.on(m, "audit", "verify"); r.code != 0 {
		t.Errorf("the cluster does not agree with itself: %v", r)
	}
	eventually(t, 3*time.Minute, func() string {
		if out := c.ok(m, "audit", "witness", "ls", "--no-trunc"); !strings.Contains(out, " ALARM ") || !strings.Contains(out, "it knows another log than this one") {
			return out
		}
		return ""
	})
	if got := c.witnessed(m); got != "fail" {
		t.Errorf("the witness knows another log, and audit-witnessed is %s", got)
	}
	if out := c.ok(m, "events", "--since", "5m", "--until", "0s", "--filter", "type=audit-witness"); !strings.Contains(out, "alarm") {
		t.Errorf("there is no event: %s", out)
	}
	if out := c.ok(m, "audit", "ls", "--last", "4000", "--format", "json"); !strings.Contains(out, "audit witnesses") {
		t.Error("there is no record of it")
	}
	if got := w.Size(origin); got != cosigned {
		t.Errorf("the witness cosigned %d records of another log", got)
	}
	c.refused(m, 1, "not those of the checkpoint", nil, "audit", "verify", "--checkpoint", kept, "--witness-key", w.Key())
	// Nothing but a witness that is set again ends the alarm, and that one comes again.
	c.ok(m, "audit", "witness", "set", out.url(), "--key", w.Key(), "--ca", out.ca)
	eventually(t, time.Minute, func() string {
		if out := c.ok(m, "audit", "witness", "ls"); !strings.Contains(out, " ALARM ") {
			return out
		}
		return ""
	})
	c.ok(m, "audit", "witness", "rm", witnessName)
	if got := c.witnessed(m); got != "not-applicable" {
		t.Errorf("without a witness audit-witnessed is %s", got)
	}
}

// logKey is the first line of the audit log's checkpoints, and the key that it names.
func (c *cluster) logKey(host string) (origin, key string) {
	c.t.Helper()
	eventually(c.t, 2*time.Minute, func() string {
		r := c.on(host, "audit", "checkpoint")
		if origin, _, _ = strings.Cut(r.stdout, "\n"); r.code != 0 {
			return r.String()
		}
		return ""
	})
	for line := range strings.Lines(c.ok(host, "audit", "checkpoint", "--keys")) {
		if strings.HasPrefix(line, origin+"+") {
			key = strings.TrimSuffix(line, "\n")
		}
	}
	return origin, key
}

// witnessed is the outcome of the control audit-witnessed.
func (c *cluster) witnessed(host string) string {
	c.t.Helper()
	for _, x := range c.controls(c.on(host, "compliance", "run", "--scope", "cluster", "--format", "json").stdout) {
		if x.Control == "audit-witnessed" {
			return x.Outcome
		}
	}
	return "not there"
}
