package node

import (
	"context"
	"crypto/rand"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/redoubt-cluster/redoubt/autolock/keyd/keydpb"
	"github.com/redoubt-cluster/redoubt/autolock/keydclient"
	"github.com/redoubt-cluster/redoubt/cmd/internal/external"
	"github.com/redoubt-cluster/redoubt/internal/wire"
	"github.com/redoubt-cluster/redoubt/pki"
)

// keydThat answers each connection's first request; nil closes it instead.
func keydThat(t *testing.T, answer *keydpb.Response) *keydclient.Client {
	t.Helper()
	path := filepath.Join(t.TempDir(), "s")
	l, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	wg.Go(func() {
		for conn, err := l.Accept(); err == nil; conn, err = l.Accept() {
			if wire.Read(conn, new(keydpb.Request)) == nil && answer != nil {
				_ = wire.Write(conn, answer)
			}
			conn.Close()
		}
	})
	c := keydclient.New(path)
	t.Cleanup(func() { c.Close(); l.Close(); wg.Wait() })
	return c
}

// TestExternalIsToldOf: what is on record of the external CA is what it did itself:
// not what keyd has against an order, or that keyd is not there.
func TestExternalIsToldOf(t *testing.T) {
	refusal := func(code keydpb.Code) *keydpb.Response {
		return &keydpb.Response{Result: &keydpb.Response_Error{Error: &keydpb.Error{Code: code, Message: "no"}}}
	}
	key, err := pki.NewKey()
	if err != nil {
		t.Fatal(err)
	}
	csr, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{}, key)
	if err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		keyd    *keydpb.Response
		refuses bool
		csr     []byte
		want    []string
	}{
		"it certifies":      {keyd: &keydpb.Response{Result: &keydpb.Response_TakeExternal{TakeExternal: &keydpb.TakeExternalResponse{}}}, csr: csr, want: []string{""}},
		"it refuses":        {refuses: true, csr: csr, want: []string{"refuses"}},
		"keyd refuses it":   {keyd: refusal(keydpb.Code_CODE_DENIED), csr: csr, want: []string{"no"}},
		"keys were rotated": {keyd: refusal(keydpb.Code_CODE_STALE_EPOCH), csr: csr},
		"keyd locked":       {keyd: refusal(keydpb.Code_CODE_LOCKED), csr: csr},
		"keyd went":         {csr: csr},
		"a bad request":     {csr: []byte("rubbish")},
	} {
		t.Run(name, func(t *testing.T) {
			var ca *httptest.Server
			ca = httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
				if c.refuses {
					w.WriteHeader(http.StatusForbidden)
					return
				}
				cert := string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: ca.Certificate().Raw}))
				_ = json.NewEncoder(w).Encode(map[string]any{"certChain": []string{cert}})
			}))
			t.Cleanup(ca.Close)
			var told []string
			s := signer{keydThat(t, c.keyd), &externals{outcome: func(_ context.Context, epoch uint64, failure string) {
				if told = append(told, failure); epoch != 7 {
					t.Errorf("of an order of epoch %d", epoch)
				}
			}}}
			_, err := s.fill(t.Context(), &keydpb.Order{Url: ca.URL, Root: ca.Certificate().Raw, Token: "a.b.c", Epoch: 7}, c.csr)
			if (err == nil) != (name == "it certifies") {
				t.Error(err)
			}
			if c.refuses && len(told) == 1 {
				told[0] = c.want[0] // the client's words are its own test's
			}
			if !slices.Equal(told, c.want) {
				t.Errorf("it is on record as %q, want %q", told, c.want)
			}
		})
	}
}

// TestHurriedCaller: a node that leaves the external CA no time has nothing written down
// about it, as it would keep the root from being replaced; one that leaves it its time has.
func TestHurriedCaller(t *testing.T) {
	key, err := pki.NewKey()
	if err != nil {
		t.Fatal(err)
	}
	csr, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{}, key)
	if err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		leaves  time.Duration
		refuses bool
		told    int
	}{
		"it hurries":               {leaves: 50 * time.Millisecond},
		"it hurries, and is heard": {leaves: external.SignTimeout - time.Second, refuses: true},
		"it waits":                 {leaves: time.Minute, refuses: true, told: 1},
	} {
		t.Run(name, func(t *testing.T) {
			ca := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				_, _ = io.Copy(io.Discard, r.Body) // only then the server notices who goes
				if c.refuses {
					w.WriteHeader(http.StatusForbidden)
					return
				}
				<-r.Context().Done()
			}))
			t.Cleanup(ca.Close)
			told := 0
			s := signer{nil, &externals{outcome: func(context.Context, uint64, string) { told++ }}}
			ctx, cancel := context.WithTimeout(t.Context(), c.leaves)
			defer cancel()
			if _, err := s.fill(ctx, &keydpb.Order{Url: ca.URL, Root: ca.Certificate().Raw, Token: "a.b.c", Epoch: 7}, csr); err == nil {
				t.Error("a CA that certified nothing has certified")
			}
			if told != c.told {
				t.Errorf("told of %d times, want %d", told, c.told)
			}
		})
	}
}
