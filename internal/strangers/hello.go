package strangers

import (
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"slices"
)

// maxHello bounds the bytes read until the ClientHello is complete. Ours is below
// 2 KiB.
const maxHello = 16 << 10

var (
	errPeeked   = errors.New("peeked")
	errBigHello = fmt.Errorf("the ClientHello is larger than %d bytes", maxHello)
)

// Peek reads until the ClientHello is complete and returns the protocols
// it offers and every byte that was read. Nothing is sent. The parsing is
// crypto/tls's own, stopped before it would answer.
func Peek(conn net.Conn) (offered []string, read []byte, err error) {
	rec := &recorder{Conn: conn}
	probe := tls.Server(rec, &tls.Config{
		MinVersion: tls.VersionTLS13,
		GetConfigForClient: func(h *tls.ClientHelloInfo) (*tls.Config, error) {
			offered = slices.Clone(h.SupportedProtos)
			return nil, errPeeked
		},
	})
	if err := probe.Handshake(); !errors.Is(err, errPeeked) {
		return nil, nil, fmt.Errorf("no ClientHello: %w", err)
	}
	return offered, rec.read, nil
}

// recorder keeps what is read, up to a bound, and swallows what is written:
// the alert with which the probe ends.
type recorder struct {
	net.Conn
	read []byte
}

func (r *recorder) Read(b []byte) (int, error) {
	room := maxHello - len(r.read)
	if room <= 0 {
		return 0, errBigHello
	}
	n, err := r.Conn.Read(b[:min(len(b), room)])
	r.read = append(r.read, b[:n]...)
	return n, err
}

func (r *recorder) Write(b []byte) (int, error) { return len(b), nil }

// Replayed reads what was peeked first. Its address may be another's: that of
// the caller behind a splice.
type Replayed struct {
	net.Conn
	Prefix []byte   // read by the one goroutine that reads the connection
	Remote net.Addr // nil: the connection's own
}

func (r *Replayed) Read(b []byte) (int, error) {
	if len(r.Prefix) > 0 {
		n := copy(b, r.Prefix)
		if r.Prefix = r.Prefix[n:]; len(r.Prefix) == 0 {
			r.Prefix = nil // some KiB, for as long as a session lasts
		}
		return n, nil
	}
	return r.Conn.Read(b)
}

func (r *Replayed) RemoteAddr() net.Addr {
	if r.Remote != nil {
		return r.Remote
	}
	return r.Conn.RemoteAddr()
}
