package meshload

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"
)

// server answers the n-th request of each connection, from 1 on, with what says
// returns, and then goes on only if that says so.
func server(t *testing.T, says func(n int) (answer string, on bool)) string {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			wg.Go(func() {
				defer c.Close()
				r := bufio.NewReader(c)
				for n := 1; ; n++ {
					req, err := http.ReadRequest(r)
					if err != nil {
						return
					}
					answer, on := says(n)
					if io.WriteString(c, answer); !on || req.Close {
						return
					}
				}
			})
		}
	})
	t.Cleanup(func() { ln.Close(); wg.Wait() })
	return "http://" + ln.Addr().String() + "/"
}

func says(body string) string {
	return fmt.Sprintf("HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s", len(body), body)
}

// What becomes of a request is what a client of HTTP would say.
func TestWhatBecameOfRequests(t *testing.T) {
	gone, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	gone.Close()
	real := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { fmt.Fprintln(w, "hello from a at b") }))
	defer real.Close()
	for _, x := range []struct {
		name, url string
		fresh     string // cause, or who answered
		keeps     string
		retried   bool
	}{
		{"Go's server", real.URL, "a", "a", false},
		{"one that goes on", server(t, func(int) (string, bool) { return says("hello from a at b"), true }), "a", "a", false},
		{"one that closes a connection that is kept", server(t, func(n int) (string, bool) { return says("a"), n < 1 }), "a", "a", true},
		{"one that closes without an answer", server(t, func(int) (string, bool) { return "", false }), "asking: closed", "asking: closed", false},
		{"half an answer", server(t, func(int) (string, bool) { return says("hello")[:40], false }), "asking: closed", "asking: closed", false},
		{"another status", server(t, func(int) (string, bool) { return "HTTP/1.1 503 Away\r\nContent-Length: 0\r\n\r\n", false }), "asking: status 503", "asking: status 503", false},
		{"no length", server(t, func(int) (string, bool) { return "HTTP/1.1 200 OK\r\n\r\nhello", false }), "asking: an answer without its length", "asking: an answer without its length", false},
		{"too much", server(t, func(int) (string, bool) { return strings.Repeat("x", 2*maxAnswer), false }), "asking: an answer of more than 4096 bytes", "asking: an answer of more than 4096 bytes", false},
		{"nobody", "http://" + gone.Addr().String(), "connecting: refused", "connecting: refused", false},
	} {
		to, err := newTarget(x.url, 10*time.Second)
		if err != nil {
			t.Fatal(err)
		}
		u := &user{t: to}
		var tr trace
		if got := outcome(to.ask(&tr)); got != x.fresh {
			t.Errorf("%s: %q, want %q", x.name, got, x.fresh)
		}
		for range 3 {
			if got := outcome(u.ask(&tr)); got != x.keeps {
				t.Errorf("%s: %q, want %q", x.name, got, x.keeps)
			}
		}
		if tr.retried != x.retried {
			t.Errorf("%s: sent again: %v", x.name, tr.retried)
		}
		u.close()
	}
}

func outcome(body string, err error) string {
	if err != nil {
		return Cause(err)
	}
	who, _, _ := strings.Cut(strings.TrimPrefix(body, "hello from "), " ")
	return strings.TrimSpace(who)
}

// A load says how many it sent, and who answered.
func TestRun(t *testing.T) {
	url := server(t, func(n int) (string, bool) { return says("hello from a at b"), n < 5 })
	for _, c := range []Config{{Rate: 500}, {Clients: 4}, {Clients: 4, Kept: true}} {
		c.URL, c.For, c.Timeout = url, 100*time.Millisecond, 10*time.Second
		r, err := Run(t.Context(), c)
		if err != nil {
			t.Fatal(err)
		}
		if r.Sent < 4 || r.OK != r.Sent || r.Failed != 0 || r.Answered["a"] == nil || r.Answered["a"].N != r.OK || r.P50 == 0 {
			t.Errorf("%+v: %+v", c, r)
		}
	}
	for _, bad := range []Config{{}, {URL: url, For: 1, Timeout: 1}, {URL: "http://name/", For: 1, Timeout: 1, Rate: 1}, {URL: "https://127.0.0.1/", For: 1, Timeout: 1, Rate: 1}} {
		if _, err := Run(t.Context(), bad); err == nil {
			t.Errorf("%+v is accepted", bad)
		}
	}
}
