package svid

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"sync"
	"time"

	"github.com/spiffe/go-spiffe/v2/proto/spiffe/workload"
	"golang.org/x/sync/errgroup"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"github.com/redoubt-cluster/redoubt/internal/ident"
	"github.com/redoubt-cluster/redoubt/internal/wire"
	"github.com/redoubt-cluster/redoubt/scheduler/rund/rundpb"
)

// header is what every call must have, so that nobody is made to call by being
// given an address to fetch.
const header = "workload.spiffe.io"

// Serve answers callers whom rund hands over, until ctx ends. dial connects to
// rund's identity.sock; it is called again whenever that connection ends.
func (h *Holder) Serve(ctx context.Context, dial func(context.Context) (*net.UnixConn, error)) error {
	l := newHanded()
	srv := grpc.NewServer(grpc.Creds(callerCreds{}), grpc.MaxRecvMsgSize(maxRequest), grpc.MaxHeaderListSize(maxHeaders), grpc.MaxConcurrentStreams(maxCalls),
		grpc.ConnectionTimeout(5*time.Second), grpc.ReadBufferSize(4<<10), grpc.WriteBufferSize(8<<10),
		grpc.KeepaliveParams(keepalive.ServerParameters{Time: time.Minute, Timeout: 20 * time.Second}),
		grpc.KeepaliveEnforcementPolicy(keepalive.EnforcementPolicy{MinTime: 5 * time.Second, PermitWithoutStream: true}),
		grpc.UnaryInterceptor(func(ctx context.Context, req any, _ *grpc.UnaryServerInfo, next grpc.UnaryHandler) (any, error) {
			if err := h.admit(ctx); err != nil {
				return nil, err
			}
			return next(ctx, req)
		}),
		grpc.StreamInterceptor(func(srv any, s grpc.ServerStream, _ *grpc.StreamServerInfo, next grpc.StreamHandler) error {
			if err := h.admit(s.Context()); err != nil {
				return err
			}
			return next(srv, s)
		}))
	workload.RegisterSpiffeWorkloadAPIServer(srv, api{h: h})
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error {
		<-ctx.Done()
		srv.Stop()
		return ctx.Err()
	})
	g.Go(func() error { return srv.Serve(l) })
	g.Go(func() error {
		pause := minRetry
		for {
			began := time.Now()
			err := h.hear(ctx, dial, l)
			if ctx.Err() != nil {
				return ctx.Err()
			}
			if time.Since(began) > maxPause {
				pause = minRetry
			}
			h.c.Logger.Debug("rund hands over no callers of the Workload API", "err", err)
			t := time.NewTimer(pause)
			select {
			case <-t.C:
			case <-ctx.Done():
			}
			t.Stop()
			pause = min(2*pause, maxPause)
		}
	})
	return g.Wait()
}

// hear takes callers over one connection to rund.
func (h *Holder) hear(ctx context.Context, dial func(context.Context) (*net.UnixConn, error), l *handed) error {
	rund, err := dial(ctx)
	if err != nil {
		return err
	}
	stop := context.AfterFunc(ctx, func() { rund.Close() })
	defer func() { stop(); rund.Close() }()
	h.rundCame()
	for {
		var who rundpb.IdentityCaller
		files, err := wire.ReadFiles(rund, &who, 1)
		if err != nil {
			return err
		}
		if len(files) != 1 || !ident.Valid(who.GetTaskId()) {
			return errors.New("rund handed over what is no caller")
		}
		if err := h.accept(ctx, who.GetTaskId(), files[0], l); err != nil {
			h.c.Logger.Debug("a caller of the Workload API was turned away", "task", who.GetTaskId(), "err", err)
		}
	}
}

func (h *Holder) accept(ctx context.Context, task string, f *os.File, l *handed) error {
	c, err := net.FileConn(f)
	f.Close()
	if err != nil {
		return err
	}
	h.mu.Lock()
	e := h.tasks[task]
	full := e == nil || e.conns >= maxConns
	if !full {
		e.conns++
	}
	h.mu.Unlock()
	if full {
		c.Close()
		return fmt.Errorf("the task is unknown, or has %d connections already", maxConns)
	}
	caller := &callerConn{Conn: c, task: task, left: sync.OnceFunc(func() {
		h.mu.Lock()
		e.conns--
		h.mu.Unlock()
	})}
	select {
	case l.conns <- caller:
		return nil
	case <-l.closed:
	case <-ctx.Done():
	}
	return caller.Close()
}

// admit looks at a call before it is answered. One that comes too soon waits.
func (h *Holder) admit(ctx context.Context) error {
	task, err := taskOf(ctx)
	if err != nil {
		return err
	}
	md, _ := metadata.FromIncomingContext(ctx)
	if v := md.Get(header); len(v) != 1 || v[0] != "true" {
		return status.Error(codes.InvalidArgument, "security header missing from request: metadata "+header+" must be true")
	}
	for {
		h.mu.Lock()
		e := h.tasks[task]
		if e == nil {
			h.mu.Unlock()
			return refuse(errNoIdentity)
		}
		wait := e.calls.take(callBurst, time.Second/callRate, time.Now())
		h.mu.Unlock()
		if wait <= 0 {
			return nil
		}
		t := time.NewTimer(wait)
		select {
		case <-t.C:
		case <-ctx.Done():
			t.Stop()
			return status.FromContextError(ctx.Err()).Err()
		}
	}
}

// callerConn is a connection of a task.
type callerConn struct {
	net.Conn
	task string
	left func()
}

func (c *callerConn) Close() error {
	c.left()
	return c.Conn.Close()
}

// callerInfo says which task a connection is of.
type callerInfo struct {
	credentials.CommonAuthInfo
	task string
}

func (callerInfo) AuthType() string { return "task" }

// callerCreds tell gRPC what rund said: there is nothing to shake hands about.
type callerCreds struct{}

func (callerCreds) ServerHandshake(c net.Conn) (net.Conn, credentials.AuthInfo, error) {
	caller, ok := c.(*callerConn)
	if !ok {
		return nil, nil, errors.New("the caller is no task")
	}
	return c, callerInfo{credentials.CommonAuthInfo{SecurityLevel: credentials.PrivacyAndIntegrity}, caller.task}, nil
}

func (callerCreds) ClientHandshake(context.Context, string, net.Conn) (net.Conn, credentials.AuthInfo, error) {
	return nil, nil, errors.New("these credentials are a server's")
}
func (callerCreds) Info() credentials.ProtocolInfo {
	return credentials.ProtocolInfo{SecurityProtocol: "task"}
}
func (callerCreds) Clone() credentials.TransportCredentials { return callerCreds{} }
func (callerCreds) OverrideServerName(string) error         { return nil }

// handed is a listener whose connections rund accepted.
type handed struct {
	conns  chan net.Conn
	closed chan struct{}
	once   sync.Once
}

func newHanded() *handed { return &handed{conns: make(chan net.Conn), closed: make(chan struct{})} }

func (l *handed) Accept() (net.Conn, error) {
	select {
	case c := <-l.conns:
		return c, nil
	case <-l.closed:
		return nil, net.ErrClosed
	}
}
func (l *handed) Close() error   { l.once.Do(func() { close(l.closed) }); return nil }
func (l *handed) Addr() net.Addr { return &net.UnixAddr{Name: "identity", Net: "unix"} }
