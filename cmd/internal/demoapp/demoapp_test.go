package demoapp

import (
	"bytes"
	"net"
	"net/http/httptest"
	"os"
	"strings"
	"testing"
	"time"
)

func TestHandler(t *testing.T) {
	t.Setenv("CANARY", "hunter2")
	s := httptest.NewServer(Handler())
	defer s.Close()
	get := func(path string) (int, string) {
		resp, err := s.Client().Get(s.URL + path)
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		var b bytes.Buffer
		if _, err := b.ReadFrom(resp.Body); err != nil {
			t.Fatal(err)
		}
		return resp.StatusCode, b.String()
	}
	host, err := os.Hostname()
	if err != nil {
		t.Fatal(err)
	}
	if code, body := get("/"); code != 200 || !strings.HasPrefix(body, "hello from "+host+" at 127.0.0.1:") {
		t.Errorf("%d %q", code, body)
	}
	if _, body := get("/client"); !strings.HasPrefix(body, "hello from "+host) || !strings.Contains(body, ", you are 127.0.0.1:") {
		t.Errorf("%q", body)
	}
	if _, body := get("/env"); !strings.Contains(body, "CANARY\n") || strings.Contains(body, "hunter2") {
		t.Errorf("%q", body)
	}
	if code, _ := get("/other"); code != 404 {
		t.Errorf("%d", code)
	}
}

func TestDatagrams(t *testing.T) {
	c, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() { answer(c); close(done) }()
	defer func() { c.Close(); <-done }()
	client, err := net.Dial("udp", c.LocalAddr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	buf := make([]byte, 200)
	client.SetDeadline(time.Now().Add(10 * time.Second))
	if _, err := client.Write([]byte("?")); err != nil {
		t.Fatal(err)
	}
	n, err := client.Read(buf)
	if err != nil || !strings.Contains(string(buf[:n]), "you are "+client.LocalAddr().String()) {
		t.Errorf("%q, %v", buf[:n], err)
	}
}

func TestMainArguments(t *testing.T) {
	for _, tc := range []struct {
		args string
		code int
	}{{"exit 7", 7}, {"exit 256", 2}, {"exit x", 2}, {"eat 0", 1}, {"what", 2}, {"--nosuch", 2}, {"--listen nowhere:x", 1}} {
		var out bytes.Buffer
		if got := Main(strings.Fields(tc.args), &out, &out); got != tc.code {
			t.Errorf("%s: %d, want %d (%s)", tc.args, got, tc.code, out.String())
		}
	}
}
