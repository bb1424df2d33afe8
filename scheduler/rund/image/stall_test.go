package image

import (
	"context"
	"crypto/x509"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// slowRegistry serves one blob over TLS, by pieces that are written when
// between returns.
func slowRegistry(t *testing.T, stall time.Duration, blob string, piece int, between func(*http.Request)) (r *Registries, host string, asked *atomic.Int32) {
	t.Helper()
	asked = &atomic.Int32{}
	srv := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		if !strings.Contains(req.URL.Path, "/blobs/") {
			w.WriteHeader(http.StatusOK)
			return
		}
		asked.Add(1)
		for rest := blob; rest != "" && req.Context().Err() == nil; rest = rest[min(piece, len(rest)):] {
			io.WriteString(w, rest[:min(piece, len(rest))])
			w.(http.Flusher).Flush()
			between(req)
		}
	}))
	t.Cleanup(srv.Close)
	pool := x509.NewCertPool()
	pool.AddCert(srv.Certificate())
	client := httpClient(pool)
	transport := client.Transport.(onlyTLS)
	transport.stall = stall
	client.Transport = transport
	t.Cleanup(transport.CloseIdleConnections)
	host = strings.TrimPrefix(srv.URL, "https://")
	return &Registries{config: map[string]Registry{host: {}}, own: map[string]*http.Client{host: client}}, host, asked
}

func fetch(ctx context.Context, r *Registries, host, blob string) error {
	f, err := r.resolver(nil).Fetcher(ctx, host+"/app:1")
	if err != nil {
		return err
	}
	body, err := f.Fetch(ctx, ocispec.Descriptor{MediaType: ocispec.MediaTypeImageLayer, Size: int64(len(blob)), Digest: digest.FromString(blob)})
	if err != nil {
		return err
	}
	_, err = io.Copy(io.Discard, body)
	return errors.Join(err, body.Close())
}

// A registry that goes silent and one that sends a byte now and then are given
// up alike, after as many attempts as any other.
func TestStalledTransferIsGivenUp(t *testing.T) {
	blob := strings.Repeat("x", 4<<20)
	for name, between := range map[string]func(*http.Request){
		"silent": func(r *http.Request) { <-r.Context().Done() },
		"trickle": func(r *http.Request) {
			select {
			case <-r.Context().Done():
			case <-time.After(20 * time.Millisecond):
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			r, host, asked := slowRegistry(t, 200*time.Millisecond, blob, 1, between)
			ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
			defer cancel()
			err := retry(ctx, nil, func() error { return fetch(ctx, r, host, blob) })
			if !errors.Is(err, errStalled) || IsRejected(err) || ctx.Err() != nil {
				t.Errorf("got %v", err)
			}
			if got := asked.Load(); got != attempts {
				t.Errorf("asked %d times, want %d", got, attempts)
			}
		})
	}
}

// What gets on is left alone, however long all of it takes, and so is a reader
// that is slow itself.
func TestSlowTransferIsNotGivenUp(t *testing.T) {
	const stall = 400 * time.Millisecond
	blob := strings.Repeat("x", 12*minProgress)
	r, host, _ := slowRegistry(t, stall, blob, minProgress, func(r *http.Request) {
		select {
		case <-r.Context().Done():
		case <-time.After(stall / 8):
		}
	})
	if err := fetch(t.Context(), r, host, blob); err != nil {
		t.Errorf("%v", err)
	}
	synctest.Test(t, slowReader)
}

func slowReader(t *testing.T) {
	const stall = time.Second
	b := &progress{body: io.NopCloser(strings.NewReader("ab")), ctx: t.Context(), cancel: func(error) { t.Error("given up") }, limit: stall, left: stall}
	for range 2 {
		if _, err := b.Read(make([]byte, 1)); err != nil {
			t.Error(err)
		}
		time.Sleep(2 * stall) // of the bubble
	}
}
