package fabric

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"slices"
	"time"

	"github.com/redoubt-cluster/redoubt/internal/peercred"
)

// ServeTool answers wg, WireGuard's own tool, of root, until ctx ends: what peers
// there are, and nothing else. It closes l. wg is told the kernel's WireGuard by
// the kernel; the embedded one it looks for at a socket, and speaks to it as to
// wireguard-go. Here that socket sets nothing, and no key that is secret is in its
// answers.
func (f *Fabric) ServeTool(ctx context.Context, l net.Listener) error {
	stop := context.AfterFunc(ctx, func() { l.Close() })
	defer func() {
		if stop() {
			l.Close()
		}
	}()
	pl := peercred.Listener(l, func(err error) { f.log.Warn("connection refused", "err", err) }, 0)
	for {
		conn, err := pl.Accept()
		if err != nil {
			if ctx.Err() != nil {
				return ctx.Err()
			}
			return err
		}
		// One after another: a person asks.
		f.answerTool(conn)
	}
}

// The protocol's two questions, each ended by an empty line, and its errors, which
// are errno's.
const (
	toolGet       = "get=1\n\n"
	toolRefused   = "errno=1\n\n"  // EPERM
	toolNoDevice  = "errno=19\n\n" // ENODEV
	toolAnswerEnd = "errno=0\n\n"
)

func (f *Fabric) answerTool(conn net.Conn) {
	defer conn.Close()
	if conn.SetDeadline(time.Now().Add(toolTime)) != nil {
		return
	}
	asked := make([]byte, len(toolGet))
	if _, err := io.ReadFull(conn, asked); err != nil {
		return
	}
	answer := []byte(toolRefused)
	if string(asked) == toolGet {
		var err error
		if answer, err = f.dump(); err != nil {
			f.log.Warn("wg got no answer", "err", err)
			answer = []byte(toolNoDevice)
		}
	}
	_, _ = conn.Write(answer) // who asked may be gone
}

// dump is the embedded device as wg reads it.
func (f *Fabric) dump() ([]byte, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	e, ok := f.driver.(*embedded)
	if !ok {
		return nil, errors.New("no embedded WireGuard runs here")
	}
	var text buffer
	defer func() { clear(text) }()
	if err := e.dev.IpcGetOperation(&text); err != nil {
		return nil, err
	}
	return append(public(text), toolAnswerEnd...), nil
}

// shown are the lines of a device that everybody may read who may speak to netd.
var shown = []string{"listen_port", "fwmark", "public_key", "endpoint", "last_handshake_time_sec", "last_handshake_time_nsec",
	"tx_bytes", "rx_bytes", "persistent_keepalive_interval", "allowed_ip", "protocol_version"}

// public copies the lines that hold no secret.
func public(text []byte) (out []byte) {
	for line := range bytes.Lines(text) {
		name, _, _ := bytes.Cut(line, []byte("="))
		if slices.Contains(shown, string(name)) && bytes.HasSuffix(line, []byte("\n")) {
			out = append(out, line...)
		}
	}
	return out
}
