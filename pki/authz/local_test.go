package authz

import (
	"context"
	"crypto/tls"
	"fmt"
	"net"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"testing"

	"golang.org/x/sys/unix"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/emptypb"

	"github.com/redoubt-cluster/redoubt/internal/ident"
	"github.com/redoubt-cluster/redoubt/pki/authz/authzpb"
)

// TestLocalSocket serves the probe on a unix socket to root and to another.
func TestLocalSocket(t *testing.T) {
	path := filepath.Join(t.TempDir(), "s")
	l, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	a := New(Config{})
	srv := grpc.NewServer(a.LocalServerOptions()...)
	srv.RegisterService(&grpc.ServiceDesc{ServiceName: testService, HandlerType: (*any)(nil), Methods: []grpc.MethodDesc{
		{MethodName: fmt.Sprintf("Kind%d", authzpb.Caller_CALLER_NODE_LOCAL_ROOT), Handler: echoEmpty},
		{MethodName: fmt.Sprintf("Kind%d", authzpb.Caller_CALLER_MANAGER_LOCAL_ROOT), Handler: echoEmpty},
	}}, struct{}{})
	var wg sync.WaitGroup
	wg.Go(func() { srv.Serve(l) })
	defer wg.Wait()
	defer srv.Stop()
	cc, err := grpc.NewClient("unix:"+path, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	defer cc.Close()
	invoke := func(k authzpb.Caller) error {
		return cc.Invoke(t.Context(), methodOf(k), &emptypb.Empty{}, &emptypb.Empty{})
	}
	if err := invoke(authzpb.Caller_CALLER_NODE_LOCAL_ROOT); err != nil {
		t.Errorf("root of the node: %v", err)
	}
	if err := invoke(authzpb.Caller_CALLER_MANAGER_LOCAL_ROOT); status.Code(err) != codes.PermissionDenied {
		t.Errorf("root of a node that is no manager: %v", err)
	}
}

func echoEmpty(_ any, ctx context.Context, dec func(any) error, ic grpc.UnaryServerInterceptor) (any, error) {
	in := new(emptypb.Empty)
	if err := dec(in); err != nil {
		return nil, err
	}
	m, _ := grpc.Method(ctx)
	return ic(ctx, in, &grpc.UnaryServerInfo{FullMethod: m}, func(context.Context, any) (any, error) { return in, nil })
}

// TestLocalSocketNotRoot connects as another user: on a thread of its own that
// gave up root and ends with the goroutine.
func TestLocalSocketNotRoot(t *testing.T) {
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
		if _, _, errno := unix.RawSyscall(unix.SYS_SETRESUID, 65534, 65534, 65534); errno != 0 {
			err = errno
		}
		if err == nil {
			err = unix.Connect(fd, &unix.SockaddrUnix{Name: l.Addr().String()})
		}
		dialled <- result{fd, err}
	}()
	r := <-dialled
	defer unix.Close(r.fd)
	if r.err != nil {
		t.Fatal(r.err)
	}
	conn, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	// Nor does a connection that is for such a socket make its peer another.
	near, far := net.Pipe()
	defer near.Close()
	defer far.Close()
	for _, c := range []net.Conn{conn, onBehalf{near, conn}} {
		if _, _, err := LocalCredentials().ServerHandshake(c); err == nil || !strings.Contains(err.Error(), "65534") {
			t.Errorf("another user on the local socket: %v", err)
		}
	}
}

// onBehalf is a connection that is for another one.
type onBehalf struct {
	net.Conn
	of net.Conn
}

func (c onBehalf) NetConn() net.Conn { return c.of }

// TestLocalCredentials: neither kind of credentials takes the other's.
func TestLocalCredentials(t *testing.T) {
	a, b := net.Pipe()
	defer a.Close()
	defer b.Close()
	if _, _, err := LocalCredentials().ServerHandshake(a); err == nil {
		t.Error("a connection that is no local socket was accepted")
	}
	if _, _, err := TLSCredentials().ServerHandshake(a); err == nil {
		t.Error("a connection without TLS was accepted")
	}
	if _, _, err := TLSCredentials().ServerHandshake(tls.Server(a, &tls.Config{})); err == nil {
		t.Error("a connection whose peer nobody verified was accepted")
	}
}
