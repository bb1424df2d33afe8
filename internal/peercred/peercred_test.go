package peercred

import (
	"io"
	"net"
	"os"
	"path/filepath"
	"testing"
)

func TestListener(t *testing.T) {
	me := uint32(os.Getuid())
	for _, tc := range []struct {
		name string
		uids []uint32
		ok   bool
	}{{"mine", []uint32{me}, true}, {"other", []uint32{me + 1}, false}, {"none", nil, false}} {
		t.Run(tc.name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "s")
			raw, err := net.Listen("unix", path)
			if err != nil {
				t.Fatal(err)
			}
			var denials []error
			l := Listener(raw, func(err error) { denials = append(denials, err); raw.Close() }, tc.uids...)
			defer l.Close()
			c, err := net.Dial("unix", path)
			if err != nil {
				t.Fatal(err)
			}
			defer c.Close()
			conn, err := l.Accept()
			if tc.ok != (err == nil) {
				t.Fatalf("accepted: %v", err)
			}
			if tc.ok {
				conn.Close()
				return
			}
			if len(denials) != 1 {
				t.Errorf("denials: %v", denials)
			}
			if _, err := c.Read(make([]byte, 1)); err != io.EOF {
				t.Errorf("the refused connection is open: %v", err)
			}
		})
	}
}
