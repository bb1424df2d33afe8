package authz

import (
	"context"
	"errors"
	"net"
	"runtime"
	"strings"
	"testing"
	"unsafe"

	"golang.org/x/sys/unix"
	"google.golang.org/grpc/metadata"

	"github.com/redoubt-cluster/redoubt/internal/ident"
	"github.com/redoubt-cluster/redoubt/pki/authz/authzpb"
	"github.com/redoubt-cluster/redoubt/pki/pkipb"
	"github.com/redoubt-cluster/redoubt/pki/profile/profilepb"
)

// saying is ctx as of a call whose metadata names these users.
func saying(ctx context.Context, users ...string) context.Context {
	md := metadata.MD{}
	md.Append(userKey, users...)
	return metadata.NewIncomingContext(ctx, md)
}

// TestUserCalls: a manager names its user on the protocol for that, one and by a
// possible name, and whoever names one elsewhere is refused.
func TestUserCalls(t *testing.T) {
	d := newDirectory()
	a := New(Config{Directory: d, Judge: new(judge)})
	m, w := d.node(profilepb.Role_ROLE_MANAGER), d.node(profilepb.Role_ROLE_WORKER)
	denied := d.node(profilepb.Role_ROLE_MANAGER)
	d.set(&pkipb.Node{Id: denied.NodeID, Role: denied.Role, LeafSpki: denied.SPKI, Denied: true})
	for name, c := range map[string]struct {
		ctx context.Context
		ok  bool
	}{
		"a user":                          {saying(overTLS(ALPNUser, m), "ann"), true},
		"nobody":                          {overTLS(ALPNUser, m), false},
		"nobody, in words":                {saying(overTLS(ALPNUser, m), ""), false},
		"root":                            {saying(overTLS(ALPNUser, m), "root"), false},
		"another node's":                  {saying(overTLS(ALPNUser, m), "ann@"+w.NodeID), false},
		"two":                             {saying(overTLS(ALPNUser, m), "ann", "bob"), false},
		"a worker's":                      {saying(overTLS(ALPNUser, w), "ann"), false},
		"a removed manager's":             {saying(overTLS(ALPNUser, denied), "ann"), false},
		"where root's come":               {saying(overTLS(ALPNLocal, m), "ann"), false},
		"where nodes come":                {saying(overTLS(ALPNGRPC, m), "ann"), false},
		"where strangers come":            {saying(overTLS(ALPNGRPC, nil), "ann"), false},
		"without a certificate":           {saying(overTLS(ALPNUser, nil), "ann"), false},
		"a name that is none":             {saying(overTLS(ALPNUser, m), "a b"), false},
		"longer than any":                 {saying(overTLS(ALPNUser, m), strings.Repeat("a", maxUser+1)), false},
		"who says so on the local socket": {saying(over(&LocalInfo{}), "ann"), false},
	} {
		if err := tryUnary(a, c.ctx, methodOf(authzpb.Caller_CALLER_LOCAL_USER)); (err == nil) != c.ok {
			t.Errorf("%s: %v", name, err)
		}
		for _, k := range kinds {
			if k == authzpb.Caller_CALLER_LOCAL_USER || k == authzpb.Caller_CALLER_NODE_LOCAL_ROOT {
				continue
			}
			if tryUnary(a, c.ctx, methodOf(k)) == nil {
				t.Errorf("%s is admitted as %s", name, k)
			}
		}
	}
	id, err := a.admit(saying(overTLS(ALPNUser, m), "ann"), methodOf(authzpb.Caller_CALLER_LOCAL_USER))
	if err != nil || id.User != "ann" || id.UserOf != m.NodeID || id.LocalRoot || id.String() != "user ann of node "+m.NodeID {
		t.Errorf("%v: %+v", err, id)
	}
}

// TestMalformedUserIsRecorded: a manager that names no possible user is a refusal of that
// manager, as every other one is.
func TestMalformedUserIsRecorded(t *testing.T) {
	d := newDirectory()
	var got []Identity
	a := New(Config{Directory: d, Judge: new(judge), Refused: func(id Identity, _, _ string) { got = append(got, id) }})
	m := d.node(profilepb.Role_ROLE_MANAGER)
	for _, users := range [][]string{{"root"}, {"ann", "bob"}, {""}} {
		got = nil
		if tryUnary(a, saying(overTLS(ALPNUser, m), users...), methodOf(authzpb.Caller_CALLER_LOCAL_USER)) == nil || len(got) != 1 || got[0].NodeID != m.NodeID || got[0].User != "" {
			t.Errorf("%q: refusals of %+v are recorded", users, got)
		}
	}
}

// TestCarriedAs: who a local socket's caller is says by which protocol a call goes on,
// and what is said of it; and so where the call is answered in place.
func TestCarriedAs(t *testing.T) {
	d := newDirectory()
	a := New(Config{Directory: d, Judge: new(judge)})
	m := d.node(profilepb.Role_ROLE_MANAGER)
	in := metadata.NewIncomingContext(t.Context(), metadata.Pairs(userKey, "eve"))
	for name, c := range map[string]struct {
		id     Identity
		alpn   string
		user   string
		asUser bool
		asRoot bool
		nobody bool
	}{
		"a user": {id: Identity{User: "ann"}, alpn: ALPNUser, user: "ann", asUser: true},
		"root":   {id: Identity{LocalRoot: true}, alpn: ALPNLocal, asRoot: true},
		"nobody": {nobody: true},
		"a node": {id: Identity{NodeID: m.NodeID}, nobody: true},
	} {
		ctx := NewContext(in, c.id)
		out, alpn, err := Carried(ctx)
		if (err != nil) != c.nobody || alpn != c.alpn {
			t.Errorf("%s: %q, %v", name, alpn, err)
		}
		if err == nil {
			md, _ := metadata.FromOutgoingContext(out)
			if got := strings.Join(md.Get(userKey), ","); got != c.user || len(md) > 1 {
				t.Errorf("%s: the leader hears %v", name, md)
			}
		}
		for kind, want := range map[authzpb.Caller]bool{authzpb.Caller_CALLER_LOCAL_USER: c.asUser, authzpb.Caller_CALLER_MANAGER_LOCAL_ROOT: c.asRoot} {
			got, err := a.Carry(ctx, methodOf(kind), m)
			if (err == nil) != want {
				t.Errorf("%s as %s in place: %v", name, kind, err)
			}
			if err != nil {
				continue
			}
			if id, _ := FromContext(got); id.User != c.user || id.LocalRoot != c.asRoot {
				t.Errorf("%s as %s in place: %+v", name, kind, id)
			}
		}
	}
	if _, _, err := Carried(in); err == nil {
		t.Error("a call of nobody is carried")
	}
}

// connectAs connects as that user with these groups: on a thread of its own that gives
// up root and ends with the goroutine.
func connectAs(t *testing.T, uid, gid uint32, groups ...uint32) net.Conn {
	t.Helper()
	l, err := net.Listen("unix", "@"+ident.New())
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	type result struct {
		fd  int
		err error
	}
	dialled := make(chan result, 1)
	go func() {
		runtime.LockOSThread() // never unlocked: the thread is not used again
		fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
		var first unsafe.Pointer
		if len(groups) > 0 {
			first = unsafe.Pointer(&groups[0])
		}
		_, _, e1 := unix.RawSyscall(unix.SYS_SETGROUPS, uintptr(len(groups)), uintptr(first), 0)
		_, _, e2 := unix.RawSyscall(unix.SYS_SETRESGID, uintptr(gid), uintptr(gid), uintptr(gid))
		_, _, e3 := unix.RawSyscall(unix.SYS_SETRESUID, uintptr(uid), uintptr(uid), uintptr(uid))
		for _, e := range []unix.Errno{e1, e2, e3} {
			if err == nil && e != 0 {
				err = e
			}
		}
		if err == nil {
			err = unix.Connect(fd, &unix.SockaddrUnix{Name: l.Addr().String()})
		}
		dialled <- result{fd, err}
	}()
	r := <-dialled
	t.Cleanup(func() { unix.Close(r.fd) })
	if r.err != nil {
		t.Fatal(r.err)
	}
	conn, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	return conn
}

// TestUserSocket: who is let in at the socket for users is who the kernel says was in
// the group at connect, is not root, and has a name.
func TestUserSocket(t *testing.T) {
	const group = 71000
	many := make([]uint32, 300)
	for i := range many {
		many[i] = uint32(1000 + i)
	}
	names := func(uid uint32) (string, error) {
		if name, ok := map[uint32]string{1001: "ann", 1002: "root", 0: "root", 1003: "a b"}[uid]; ok {
			return name, nil
		}
		return "", errors.New("no user has that uid")
	}
	for name, c := range map[string]struct {
		uid, gid uint32
		groups   []uint32
		want     string // an error, where it has a space
	}{
		"by the group that is its own":      {1001, group, nil, "ann"},
		"by one of its others":              {1001, 1001, []uint32{5, group, 7}, "ann"},
		"by one of very many":               {1001, 1001, append(many, group), "ann"},
		"not in the group":                  {1001, 1001, many, "not in group 71000"},
		"in no group":                       {1001, 1001, nil, "not in group 71000"},
		"nobody by name":                    {1009, group, nil, "no user has that uid"},
		"called root":                       {1002, group, nil, "no name of a user"},
		"with a name that has room for two": {1003, group, nil, "no name of a user"},
		"root":                              {0, group, []uint32{group}, "root has one of its own"},
	} {
		conn := connectAs(t, c.uid, c.gid, c.groups...)
		_, info, err := UserCredentials(group, names, func(error) {}).ServerHandshake(conn)
		switch {
		case strings.Contains(c.want, " "):
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("%s: %v", name, err)
			}
		case err != nil:
			t.Errorf("%s: %v", name, err)
		case info.(*UserInfo).Name != c.want:
			t.Errorf("%s: %+v", name, info)
		}
	}
	a, b := net.Pipe()
	defer a.Close()
	defer b.Close()
	if _, _, err := UserCredentials(group, names, func(error) {}).ServerHandshake(a); err == nil {
		t.Error("a connection that is no local socket was accepted")
	}
}
