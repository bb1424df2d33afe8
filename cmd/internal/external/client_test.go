package external

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/smallstep/certificates/cas/apiv1"
)

// ca is a server that answers as answer does, and its root.
func ca(t *testing.T, answer http.HandlerFunc) (url string, root *x509.Certificate) {
	t.Helper()
	s := httptest.NewTLSServer(answer)
	t.Cleanup(s.Close)
	return s.URL, s.Certificate()
}

func request(t *testing.T) *x509.CertificateRequest {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{}, key)
	if err != nil {
		t.Fatal(err)
	}
	req, err := x509.ParseCertificateRequest(der)
	if err != nil {
		t.Fatal(err)
	}
	return req
}

func TestSign(t *testing.T) {
	var got struct{ CSR, OTT, NotAfter string }
	var root *x509.Certificate
	url, root := ca(t, func(w http.ResponseWriter, r *http.Request) {
		if r.Method != http.MethodPost || r.URL.Path != "/1.0/sign" || json.NewDecoder(r.Body).Decode(&got) != nil {
			w.WriteHeader(http.StatusBadRequest)
			return
		}
		cert := string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: root.Raw}))
		w.WriteHeader(http.StatusCreated)
		json.NewEncoder(w).Encode(map[string]any{"crt": cert, "certChain": []string{cert, cert}})
	})
	var c Client
	req := request(t)
	resp, err := c.Authorized(t.Context(), Order{URL: url, Root: root, Token: "a.b.c", NotAfter: time.Unix(1e9, 0)}).CreateCertificate(&apiv1.CreateCertificateRequest{CSR: req})
	if err != nil {
		t.Fatal(err)
	}
	if !resp.Certificate.Equal(root) || len(resp.CertificateChain) != 1 {
		t.Error("another chain came back")
	}
	block, _ := pem.Decode([]byte(got.CSR))
	if block == nil || string(block.Bytes) != string(req.Raw) || got.OTT != "a.b.c" || got.NotAfter != "2001-09-09T01:46:40Z" {
		t.Errorf("the CA was asked %+v", got)
	}
}

// TestAnswers: whatever a CA answers is an error in one line that says what is
// wrong, in bounded time and memory, and the token goes nowhere else.
func TestAnswers(t *testing.T) {
	elsewhere, _ := ca(t, func(http.ResponseWriter, *http.Request) { t.Error("the token went to another CA") })
	for name, c := range map[string]struct {
		answer http.HandlerFunc
		want   string
	}{
		"a refusal": {func(w http.ResponseWriter, _ *http.Request) {
			w.WriteHeader(401)
			w.Write([]byte(`{"status":401,"message":"no\nsuch \u001b[31mprovisioner"}`))
		}, "refuses: 401 no such [31mprovisioner"},
		"a redirect": {func(w http.ResponseWriter, r *http.Request) {
			http.Redirect(w, r, elsewhere, http.StatusTemporaryRedirect)
		}, "refuses: 307"},
		"rubbish":        {func(w http.ResponseWriter, _ *http.Request) { w.Write([]byte("rubbish")) }, "cannot be read"},
		"too much":       {func(w http.ResponseWriter, _ *http.Request) { w.Write(make([]byte, 1<<20)) }, "more than"},
		"no chain":       {func(w http.ResponseWriter, _ *http.Request) { w.Write([]byte(`{}`)) }, "a chain of 0"},
		"no certificate": {func(w http.ResponseWriter, _ *http.Request) { w.Write([]byte(`{"certChain":["x"]}`)) }, "cannot be read"},
		"a long chain": {func(w http.ResponseWriter, _ *http.Request) {
			w.Write([]byte(`{"certChain":["","","","","","","",""]}`))
		}, "a chain of 8"},
		"it takes long": {nil, "it took too long"},
		"it hangs up":   {func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) }, "does not answer: EOF"},
	} {
		t.Run(name, func(t *testing.T) {
			stop, answer, patience := make(chan struct{}), c.answer, 30*time.Second
			if answer == nil {
				patience = time.Second
				answer = func(http.ResponseWriter, *http.Request) { <-stop }
			}
			url, root := ca(t, answer)
			t.Cleanup(func() { close(stop) }) // before the server waits for it
			ctx, cancel := context.WithTimeout(t.Context(), patience)
			defer cancel()
			var client Client
			_, err := client.Authorized(ctx, Order{URL: url, Root: root, Token: "a.b.c"}).CreateCertificate(&apiv1.CreateCertificateRequest{CSR: request(t)})
			if err == nil || !strings.Contains(err.Error(), c.want) || strings.ContainsAny(err.Error(), "\n\x1b") || strings.Contains(err.Error(), "a.b.c") {
				t.Errorf("%v, want %q", err, c.want)
			}
		})
	}
	t.Run("another root", func(t *testing.T) {
		url, root := ca(t, func(http.ResponseWriter, *http.Request) { t.Error("it was asked") })
		key, _ := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
		again := *root
		again.SignatureAlgorithm, again.PublicKey = x509.UnknownSignatureAlgorithm, nil
		der, err := x509.CreateCertificate(rand.Reader, &again, &again, key.Public(), key)
		if err != nil {
			t.Fatal(err)
		}
		other, err := x509.ParseCertificate(der)
		if err != nil {
			t.Fatal(err)
		}
		var client Client
		if err := client.Probe(t.Context(), url, other); err == nil || !strings.Contains(err.Error(), "certificate signed by unknown authority") {
			t.Errorf("a CA whose TLS ends in another root: %v", err)
		}
	})
	t.Run("nobody", func(t *testing.T) {
		var client Client
		_, root := ca(t, nil)
		if err := client.Probe(t.Context(), "https://127.0.0.1:1", root); err == nil || !strings.Contains(err.Error(), "refused") {
			t.Errorf("nobody is there: %v", err)
		}
	})
}

func TestProbe(t *testing.T) {
	url, root := ca(t, func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path != "/health" {
			w.WriteHeader(404)
		}
		w.Write([]byte(`{"status":"ok"}`))
	})
	var client Client
	if err := client.Probe(t.Context(), url, root); err != nil {
		t.Error(err)
	}
}
