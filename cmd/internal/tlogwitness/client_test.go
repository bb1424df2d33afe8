package tlogwitness

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"golang.org/x/mod/sumdb/tlog"
)

// witness is a server that answers as answer does, and the root of its TLS.
func witness(t *testing.T, answer http.HandlerFunc) (url string, roots []*x509.Certificate) {
	t.Helper()
	s := httptest.NewTLSServer(answer)
	t.Cleanup(s.Close)
	return s.URL, []*x509.Certificate{s.Certificate()}
}

func says(status int, contentType, body string) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		if contentType != "" {
			w.Header().Set("Content-Type", contentType)
		}
		w.WriteHeader(status)
		w.Write([]byte(body))
	}
}

func TestSubmit(t *testing.T) {
	var got, path, kind string
	url, roots := witness(t, func(w http.ResponseWriter, r *http.Request) {
		b := make([]byte, 1<<10)
		n, _ := r.Body.Read(b)
		got, path, kind = string(b[:n]), r.Method+" "+r.URL.Path, r.Header.Get("User-Agent")+r.Header.Get("Accept-Encoding")
		w.Write([]byte("— w AAAA\n"))
	})
	a, err := Submit(t.Context(), url+"/some/where", roots, Submission{Old: 7, Proof: tlog.TreeProof{{1}, {2}}, Note: []byte("log\n9\nroot\n\n— log AAAA\n")})
	if err != nil || a != (Answer{Kind: Cosigned, Lines: "— w AAAA\n"}) {
		t.Fatalf("%+v, %v", a, err)
	}
	want := "old 7\nAQAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=\nAgAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=\n\nlog\n9\nroot\n\n— log AAAA\n"
	if got != want || path != "POST /some/where/add-checkpoint" {
		t.Errorf("%s %s\n%s", path, kind, got)
	}
	if got := string(Submission{Note: []byte("x\n")}.Body()); got != "old 0\n\nx\n" {
		t.Errorf("%q", got)
	}
	if _, err := Submit(t.Context(), url, roots, Submission{Proof: make(tlog.TreeProof, maxProof+1)}); err == nil {
		t.Error("a proof of more hashes than there may be was sent")
	}
}

// TestAnswers: whatever a witness answers is one of three things or an error in one
// line, in bounded time and memory, and nothing that it wrote is in that.
func TestAnswers(t *testing.T) {
	elsewhere, _ := witness(t, func(http.ResponseWriter, *http.Request) { t.Error("the checkpoint went elsewhere") })
	const size = "text/x.tlog.size"
	for name, c := range map[string]struct {
		answer http.HandlerFunc
		want   Answer
		err    string
	}{
		"a conflict":             {says(409, size, "12\n"), Answer{Kind: Conflict, Size: 12, Sized: true}, ""},
		"with a character set":   {says(409, size+"; charset=utf-8", "0\n"), Answer{Kind: Conflict, Sized: true}, ""},
		"a conflict of no size":  {says(409, "text/plain", "12\n"), Answer{Kind: Conflict}, ""},
		"no proof":               {says(422, "", "secret"), Answer{Kind: Unproved}, ""},
		"no number":              {says(409, size, "secret\n"), Answer{}, "a number of records that cannot be read"},
		"no newline":             {says(409, size, "12"), Answer{}, "cannot be read"},
		"two numbers":            {says(409, size, "12\n13\n"), Answer{}, "cannot be read"},
		"a padded number":        {says(409, size, "012\n"), Answer{}, "cannot be read"},
		"a sign":                 {says(409, size, "+12\n"), Answer{}, "cannot be read"},
		"a number below nothing": {says(409, size, "-1\n"), Answer{}, "cannot be read"},
		"a number too large":     {says(409, size, "9223372036854775808\n"), Answer{}, "cannot be read"},
		"an unknown log":         {says(404, "", "secret"), Answer{}, "does not know this log (404)"},
		"an unknown key":         {says(403, "", "secret"), Answer{}, "does not take this log's key (403)"},
		"a bad request":          {says(400, "", "secret\n\x1b[31m"), Answer{}, "it answers 400"},
		"a fault":                {says(500, "", "secret"), Answer{}, "it answers 500"},
		"no content":             {says(204, "", ""), Answer{}, "it answers 204"},
		"a redirect": {func(w http.ResponseWriter, r *http.Request) {
			http.Redirect(w, r, elsewhere, http.StatusPermanentRedirect)
		}, Answer{}, "leads elsewhere (308)"},
		"too much": {func(w http.ResponseWriter, _ *http.Request) { w.Write(make([]byte, 1<<20)) }, Answer{}, "more than 16384 bytes"},
		"a long head": {func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("X-Secret", strings.Repeat("secret", 1<<14))
		}, Answer{}, "does not answer"},
		"compressed bytes": {func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Encoding", "gzip")
			w.Write([]byte{0x1f, 0x8b, 8})
		}, Answer{Kind: Cosigned, Lines: "\x1f\x8b\x08"}, ""}, // never inflated
		"cut off": {func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Length", "100")
			w.Write([]byte("— w"))
		}, Answer{}, "it hung up"},
		"it hangs up":     {func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) }, Answer{}, "does not answer: it hung up"},
		"it takes long":   {nil, Answer{}, "it took too long"},
		"drop after drop": {func(w http.ResponseWriter, r *http.Request) { drip(w, r) }, Answer{}, "it took too long"},
	} {
		t.Run(name, func(t *testing.T) {
			stop, answer, patience := make(chan struct{}), c.answer, 30*time.Second
			if answer == nil {
				answer = func(http.ResponseWriter, *http.Request) { <-stop }
			}
			if strings.Contains(c.err, "too long") {
				patience = time.Second
			}
			url, roots := witness(t, answer)
			t.Cleanup(func() { close(stop) }) // before the server waits for it
			ctx, cancel := context.WithTimeout(t.Context(), patience)
			defer cancel()
			got, err := Submit(ctx, url, roots, Submission{Note: []byte("x\n")})
			if c.err == "" {
				if err != nil || got != c.want {
					t.Errorf("%+v, %v, want %+v", got, err, c.want)
				}
				return
			}
			if err == nil || !strings.Contains(err.Error(), c.err) || strings.ContainsAny(err.Error(), "\n\x1b") || strings.Contains(err.Error(), "secret") || got != (Answer{}) {
				t.Errorf("%+v, %v, want %q", got, err, c.err)
			}
		})
	}
}

// drip answers a byte at a time, for as long as somebody listens.
func drip(w http.ResponseWriter, r *http.Request) {
	for r.Context().Err() == nil {
		if _, err := fmt.Fprint(w, "—"); err != nil {
			return
		}
		if http.NewResponseController(w).Flush() != nil {
			return
		}
		select {
		case <-time.After(100 * time.Millisecond):
		case <-r.Context().Done():
		}
	}
}

// TestWhoIsAsked: nobody hears of a checkpoint but who has the certificate.
func TestWhoIsAsked(t *testing.T) {
	never := func(http.ResponseWriter, *http.Request) { t.Error("it was asked") }
	url, roots := witness(t, never)
	ask := func(url string, roots []*x509.Certificate, want string) {
		t.Helper()
		if _, err := Submit(t.Context(), url, roots, Submission{}); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %q", url, err, want)
		}
	}
	ask(url, nil, "CA that is not trusted for it")
	ask(strings.Replace(url, "127.0.0.1", "localhost", 1), roots, "for another name")
	ask("https://127.0.0.1:1", roots, "connection refused")
	plain := httptest.NewServer(http.HandlerFunc(never))
	t.Cleanup(plain.Close)
	ask(strings.Replace(plain.URL, "http:", "https:", 1), roots, "no TLS is spoken there")
	old := httptest.NewUnstartedServer(http.HandlerFunc(never))
	old.TLS = &tls.Config{MaxVersion: tls.VersionTLS12}
	old.StartTLS()
	t.Cleanup(old.Close)
	ask(old.URL, []*x509.Certificate{old.Certificate()}, "refuses TLS as it is spoken here")
	// Something that speaks, and not HTTP.
	config := old.TLS.Clone()
	config.MaxVersion = 0
	l, err := tls.Listen("tcp", "127.0.0.1:0", config)
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		conn, err := l.Accept()
		if err != nil {
			return
		}
		defer conn.Close()
		conn.Write([]byte("SSH-2.0-secret\r\n\r\n"))
		conn.Read(make([]byte, 1))
	}()
	t.Cleanup(func() { l.Close(); <-done })
	_, port, _ := net.SplitHostPort(l.Addr().String())
	ask("https://127.0.0.1:"+port, []*x509.Certificate{old.Certificate()}, "not HTTP as it should be")
}

func TestCheckURL(t *testing.T) {
	for _, good := range []string{"https://witness.example", "https://witness.example:8443/a/b", "https://[2001:db8::1]:7380"} {
		if err := CheckURL(good); err != nil {
			t.Errorf("%s: %v", good, err)
		}
	}
	for _, bad := range []string{"", "witness.example", "http://witness.example", "https://", "https://:443", "https://u:p@witness.example", "https://witness.example/", "https://witness.example/a/",
		"https://witness.example?x", "https://witness.example?", "https://witness.example#x", "https://witness.example#", "https://witness.example/\x1b", "https://witness.example/a b",
		"https://witness.example/\n", "unix:/run/x", "https:witness.example", "https://" + strings.Repeat("w", MaxURL)} {
		if CheckURL(bad) == nil {
			t.Errorf("%q is taken", bad)
		}
	}
}

// FuzzRead: an answer is one of those that the protocol has, and within its bounds.
func FuzzRead(f *testing.F) {
	f.Add(200, "text/plain", []byte("— w AAAA\n"))
	f.Add(409, "text/x.tlog.size", []byte("12\n"))
	f.Add(409, "text/x.tlog.size; q", []byte("012\n"))
	f.Add(422, "", []byte{})
	f.Add(308, "", []byte("x"))
	f.Fuzz(func(t *testing.T, status int, contentType string, body []byte) {
		a, err := read(status, contentType, body)
		if err != nil {
			if a != (Answer{}) || strings.ContainsAny(err.Error(), "\n\x1b") {
				t.Fatalf("%+v, %q", a, err)
			}
			return
		}
		switch {
		case len(body) > maxAnswer:
			t.Fatal("more than there may be")
		case a.Kind == Cosigned && (status != 200 || a.Lines != string(body)), a.Kind == Unproved && status != 422:
			t.Fatalf("%d: %+v", status, a)
		case a.Kind == Conflict && (status != 409 || a.Sized && fmt.Sprintf("%d\n", a.Size) != string(body)):
			t.Fatalf("%d %q: %+v", status, body, a)
		}
	})
}
