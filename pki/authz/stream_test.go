package authz

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/peer"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"github.com/redoubt-cluster/redoubt/pki/pkipb"
	"github.com/redoubt-cluster/redoubt/pki/profile/profilepb"
)

// fakeStream is a stream whose peer says nothing.
type fakeStream struct {
	grpc.ServerStream
	ctx context.Context
}

func (s fakeStream) Context() context.Context { return s.ctx }

func (s fakeStream) RecvMsg(any) error { return io.EOF }

// hold is a handler that waits for its context.
func hold(_ any, ss grpc.ServerStream) error {
	<-ss.Context().Done()
	if err := ss.RecvMsg(nil); err == nil || err == io.EOF {
		return errors.New("received after the cut")
	}
	return ss.Context().Err()
}

type closeConn struct {
	net.Conn
	once   sync.Once
	closed chan struct{}
}

func (c *closeConn) Close() error {
	c.once.Do(func() { close(c.closed) })
	return nil
}

func TestStreamIsCut(t *testing.T) {
	for name, change := range map[string]func(*pkipb.Node) *pkipb.Node{
		"denied":  func(n *pkipb.Node) *pkipb.Node { n.Denied = true; return n },
		"gone":    func(n *pkipb.Node) *pkipb.Node { return &pkipb.Node{Id: "other"} },
		"demoted": func(n *pkipb.Node) *pkipb.Node { n.Role = profilepb.Role_ROLE_BOOT; return n },
		"renewed twice": func(n *pkipb.Node) *pkipb.Node {
			n.LeafSpki, n.PreviousSpki = []byte("a"), []byte("b")
			return n
		},
	} {
		for _, all := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s, all=%t", name, all), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					d := newDirectory()
					seen := make(chan []string, 4)
					a := New(Config{Directory: d, Changed: func(ids []string) { seen <- ids }})
					ctx, cancel := context.WithCancel(t.Context())
					defer cancel()
					run := make(chan error, 1)
					go func() { run <- a.Run(ctx) }()
					<-seen

					p, bystander := d.node(profilepb.Role_ROLE_WORKER), d.node(profilepb.Role_ROLE_WORKER)
					conn := &closeConn{closed: make(chan struct{})}
					stream := func(ctx context.Context, p *Peer, conn net.Conn) chan error {
						done := make(chan error, 1)
						c := peer.NewContext(ctx, &peer.Peer{AuthInfo: &ConnInfo{TLSInfo: tlsInfo(tls.ConnectionState{NegotiatedProtocol: "h2"}), Peer: p, conn: conn}})
						go func() {
							done <- a.Stream(nil, fakeStream{ctx: c}, &grpc.StreamServerInfo{FullMethod: "/" + testService + "/Members"}, hold)
						}()
						return done
					}
					cut, stays := stream(ctx, p, conn), stream(ctx, bystander, nil)
					synctest.Wait()

					n := proto.CloneOf(d.nodes[p.NodeID])
					d.mu.Lock()
					delete(d.nodes, p.NodeID)
					d.mu.Unlock()
					d.set(change(n))
					ids := []string{p.NodeID}
					if all {
						ids = nil
					}
					d.changes <- ids
					if err := <-cut; status.Code(err) != codes.PermissionDenied && status.Code(err) != codes.Unauthenticated {
						t.Errorf("the stream ended with %v", err)
					}
					<-conn.closed
					<-seen
					synctest.Wait()
					select {
					case err := <-stays:
						t.Errorf("a bystander's stream ended: %v", err)
					default:
					}
					cancel()
					<-stays
					if err := <-run; err != nil {
						t.Error(err)
					}
				})
			})
		}
	}
}

func TestStreamEndsWithCertificate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := newDirectory()
		a := New(Config{Directory: d})
		p := d.node(profilepb.Role_ROLE_WORKER)
		start := time.Now()
		err := a.Stream(nil, fakeStream{ctx: overTLS("h2", p)}, &grpc.StreamServerInfo{FullMethod: "/" + testService + "/Members"}, hold)
		if status.Code(err) != codes.Unauthenticated || time.Since(start) != time.Hour {
			t.Errorf("after %s: %v", time.Since(start), err)
		}
	})
}
