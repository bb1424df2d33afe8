package node

import (
	"errors"
	"io"
	"net"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/redoubt-cluster/redoubt/cmd/internal/roles"
	"github.com/redoubt-cluster/redoubt/internal/strangers"
	"github.com/redoubt-cluster/redoubt/pki/authz"
	"github.com/redoubt-cluster/redoubt/pki/pkipb"
)

// TestUsersSocketIsShared: a user who opens ever more connections loses the oldest
// ones, and what is closed gives its place back.
func TestUsersSocketIsShared(t *testing.T) {
	l, err := net.Listen("unix", filepath.Join(t.TempDir(), "users.sock"))
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	crowd := strangers.NewCrowd(8, 3)
	shared := crowded{l, crowd}
	var ours, theirs []net.Conn
	for range 5 {
		c, err := net.Dial("unix", l.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		s, err := shared.Accept()
		if err != nil {
			t.Fatal(err)
		}
		ours, theirs = append(ours, c), append(theirs, s)
	}
	for i, c := range ours {
		if i >= 2 { // still there: it waits
			c.SetReadDeadline(time.Now().Add(20 * time.Millisecond))
		}
		_, err := c.Read(make([]byte, 1))
		if closed := errors.Is(err, io.EOF); closed != (i < 2) || !closed && !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("connection %d of 5: %v", i+1, err)
		}
	}
	for _, s := range theirs {
		s.Close()
	}
	if n := crowd.Len(); n != 0 {
		t.Errorf("%d places are taken after all is closed", n)
	}
}

// TestUserName: names come from the machine's user database.
func TestUserName(t *testing.T) {
	if name, err := userName(0); err != nil || name != "root" {
		t.Errorf("%q, %v", name, err)
	}
	if name, err := userName(4242421); err == nil {
		t.Errorf("a uid of nobody is %q", name)
	}
}

// TestUserIsPrincipal: a user is one with the machine, and none before the machine is known.
func TestUserIsPrincipal(t *testing.T) {
	p, err := roles.FromIdentity(authz.Identity{User: "ann", UserOf: "m1", NodeID: "m1"})
	if want := (roles.Principal{Kind: pkipb.Principal_KIND_LOCAL_USER, Name: "ann", Node: "m1"}); err != nil || p != want {
		t.Errorf("%+v, %v", p, err)
	}
	if p, err := roles.FromIdentity(authz.Identity{User: "ann"}); err == nil {
		t.Errorf("a user of no known machine is %+v", p)
	}
}
