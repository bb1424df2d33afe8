package fabric

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"path/filepath"
	"strings"
	"testing"
)

// TestToolSeesNoSecret: what wg is told of the device has no key but public ones.
func TestToolSeesNoSecret(t *testing.T) {
	secret := strings.Repeat("5ec7", 16)
	got := string(public([]byte("private_key=" + secret + "\nlisten_port=51820\npublic_key=ab\npreshared_key=" + secret +
		"\nprotocol_version=1\nendpoint=192.0.2.1:5\nlast_handshake_time_sec=7\nlast_handshake_time_nsec=0\ntx_bytes=1\nrx_bytes=2\n" +
		"persistent_keepalive_interval=0\nallowed_ip=198.18.0.2/32\nnew_key=" + secret + "\nlisten_port=" + secret)))
	if strings.Contains(got, "5ec7") || strings.Count(got, "\n") != 10 || !strings.HasPrefix(got, "listen_port=51820\npublic_key=ab\n") {
		t.Errorf("%q", got)
	}
}

// TestToolSetsNothing: whatever is not the one question is refused.
func TestToolSetsNothing(t *testing.T) {
	f := &Fabric{log: slog.New(slog.DiscardHandler)}
	path := filepath.Join(t.TempDir(), "wg.sock")
	l, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- f.ServeTool(ctx, l) }()
	for asked, want := range map[string]string{
		"set=1\nprivate_key=" + strings.Repeat("0", 64) + "\n\n": toolRefused,
		"get=2\n\n": toolRefused,
		"get=1\n\n": toolNoDevice, // there is none
		"get":       "",
	} {
		conn, err := net.Dial("unix", path)
		if err != nil {
			t.Fatal(err)
		}
		_, _ = io.WriteString(conn, asked)
		if err := conn.(*net.UnixConn).CloseWrite(); err != nil {
			t.Fatal(err)
		}
		if got, _ := io.ReadAll(conn); string(got) != want {
			t.Errorf("%q is answered %q, wanted %q", asked, got, want)
		}
		conn.Close()
	}
	cancel()
	if err := <-done; !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
}
