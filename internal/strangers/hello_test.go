package strangers

import (
	"bytes"
	"crypto/tls"
	"io"
	"net"
	"slices"
	"strings"
	"testing"
	"time"
)

func hello(t testing.TB, protos ...string) []byte {
	client, server := net.Pipe()
	defer server.Close()
	done := make(chan []byte, 1)
	go func() {
		b := make([]byte, maxHello)
		n, _ := server.Read(b)
		done <- b[:n]
		server.Close()
	}()
	tls.Client(client, &tls.Config{MinVersion: tls.VersionTLS13, NextProtos: protos, InsecureSkipVerify: true}).Handshake()
	return <-done
}

// memConn is a connection that reads from memory and must not be written to.
type memConn struct {
	net.Conn
	r *bytes.Reader
	t testing.TB
}

func (c memConn) Read(b []byte) (int, error) { return c.r.Read(b) }
func (c memConn) Write([]byte) (int, error) {
	c.t.Error("the peek answered")
	return 0, io.ErrClosedPipe
}
func (c memConn) SetWriteDeadline(time.Time) error { return nil }
func (c memConn) Close() error                     { return nil }

func FuzzPeekHello(f *testing.F) {
	h := hello(f, "h2")
	f.Add(h)
	f.Add(h[:len(h)/2])
	f.Add(append(slices.Clone(h), "more"...))
	f.Add(hello(f, "redoubt-raft/1", "h2"))
	f.Add([]byte("GET / HTTP/1.1\r\n\r\n"))
	f.Fuzz(func(t *testing.T, b []byte) {
		offered, read, err := Peek(memConn{r: bytes.NewReader(b), t: t})
		if err != nil {
			return
		}
		if !bytes.HasPrefix(b, read) || len(read) > maxHello {
			t.Error("what was read is not what was sent")
		}
		for _, p := range offered {
			if !strings.Contains(string(b), p) {
				t.Error("a protocol that was not offered")
			}
		}
	})
}

func TestPeekHello(t *testing.T) {
	h := hello(t, "redoubt-lock/1")
	offered, read, err := Peek(memConn{r: bytes.NewReader(h), t: t})
	if err != nil || len(offered) != 1 || offered[0] != "redoubt-lock/1" || !bytes.Equal(read, h) {
		t.Errorf("%q, %d of %d bytes, %v", offered, len(read), len(h), err)
	}
	// A record that announces more than the bound, and plain HTTP.
	big := append([]byte{22, 3, 1, 0x40, 0, 1, 0, 0xff, 0}, make([]byte, 2*maxHello)...)
	for _, b := range [][]byte{big, []byte("GET / HTTP/1.1\r\nHost: x\r\n\r\n"), {}, h[:40]} {
		if _, _, err := Peek(memConn{r: bytes.NewReader(b), t: t}); err == nil {
			t.Errorf("peeked at %.20q", b)
		}
	}
}
