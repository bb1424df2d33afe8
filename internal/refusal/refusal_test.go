package refusal

import (
	"io"
	"net"
	"path/filepath"
	"strings"
	"testing"
)

// TestTold: whoever waited, and had sent something already, hears the reason.
func TestTold(t *testing.T) {
	path := filepath.Join(t.TempDir(), "s")
	l, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	var conns []*Conn
	for range 3 {
		raw, err := net.Dial("unix", path)
		if err != nil {
			t.Fatal(err)
		}
		defer raw.Close()
		if _, err := io.WriteString(raw, "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"); err != nil {
			t.Fatal(err)
		}
		conns = append(conns, &Conn{Conn: raw})
	}
	done := make(chan struct{})
	go func() { defer close(done); Tell(l, "line 3:\x1b[2J\nunknown "+strings.Repeat("x", maxLine)) }()
	for _, c := range conns {
		var p [16]byte
		if n, err := c.Read(p[:]); n != 0 || err != io.EOF {
			t.Errorf("read %d, %v", n, err)
		}
		if got := c.Refused(); !strings.HasPrefix(got, "line 3: [2J unknown x") || len(got) >= maxLine {
			t.Errorf("heard %q", got)
		}
		c.Close()
	}
	<-done
}

// TestHeard: what is no refusal is passed on, or refused as no node's.
func TestHeard(t *testing.T) {
	for said, want := range map[string]string{
		"\x00\x00\x06\x04\x00": "\x00\x00\x06\x04\x00",
		"HTTP/1.1 400 \r\n":    "",
		prefix + "cut off":     "",
	} {
		here, there := net.Pipe()
		go func() { io.WriteString(there, said); there.Close() }()
		c := &Conn{Conn: here}
		var p [64]byte
		n, err := c.Read(p[:])
		if string(p[:n]) != want || (want == "") != (err != nil) || c.Refused() != "" {
			t.Errorf("%q: %q, %v, refused %q", said, p[:n], err, c.Refused())
		}
		here.Close()
	}
}
