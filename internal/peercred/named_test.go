package peercred

import (
	"net"
	"os"
	"path/filepath"
	"testing"
)

func TestNamed(t *testing.T) {
	l, err := net.Listen("unix", filepath.Join(t.TempDir(), "s"))
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	c, err := net.Dial("unix", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	conn, err := Named(Listener(l, nil, uint32(os.Getuid()))).Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if uid, ok := UID(conn.RemoteAddr()); !ok || uid != uint32(os.Getuid()) {
		t.Errorf("uid %d, %v", uid, ok)
	}
	if _, ok := UID(c.RemoteAddr()); ok {
		t.Error("an ordinary address has a uid")
	}
}
