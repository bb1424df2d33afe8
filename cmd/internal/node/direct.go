package node

import (
	"context"
	"strings"

	"google.golang.org/grpc"

	"github.com/redoubt-cluster/redoubt/cmd/internal/control/controlpb"
	"github.com/redoubt-cluster/redoubt/pki/audit"
	"github.com/redoubt-cluster/redoubt/pki/authz"
)

// direct answers calls of the operator API at the leader's own socket without
// carrying them to itself: through TLS and back they would cost more than all
// that is done for them. Who calls is judged by the same authorizer, from the
// same certificate and record.
//
// Only calls with one request and one answer go this way. A stream may last
// longer than this manager leads, or than it is one, and what ends it then is
// the connection to the leader.
type direct struct {
	api     directServer
	az      *authz.Authorizer
	records *audit.Log
}

// directServer is control.Server.
type directServer interface {
	controlpb.ControlServer
	controlpb.RevocationServer
	controlpb.IdentitiesServer
	controlpb.AuthorityServer
	controlpb.SecretsServer
	controlpb.AccessServer
	controlpb.AuditServer
	controlpb.PeopleServer
	controlpb.WaiversServer
	controlpb.ApprovalsServer
	// Named is what the server does with a refusal that it sends.
	Named(err error) error
}

// directCall answers one call, whose request decode gives.
type directCall func(ctx context.Context, decode func(any) error) (any, error)

// direct returns how to answer method here, or nil where it must be carried to
// the leader.
func (n *Node) direct(method string) directCall {
	n.mu.Lock()
	live := n.live
	n.mu.Unlock()
	m, ok := live.(*managerState)
	if !ok || !m.store.IsLeader() {
		return nil
	}
	d, desc := m.direct.Load(), unaryMethods[method]
	if d == nil || desc == nil {
		return nil
	}
	return func(ctx context.Context, decode func(any) error) (any, error) {
		ctx, err := d.az.Carry(ctx, method, m.creds.Peer())
		if err != nil {
			return nil, err
		}
		judged := func(ctx context.Context, request any, info *grpc.UnaryServerInfo, next grpc.UnaryHandler) (any, error) {
			ctx, err := d.az.Judged(ctx, method, request)
			if err != nil {
				return nil, err
			}
			return d.records.Unary(ctx, request, info, next)
		}
		resp, err := desc.Handler(d.api, ctx, decode, judged)
		if err != nil {
			return nil, d.api.Named(err)
		}
		return resp, nil
	}
}

// unaryMethods are the methods of the operator API that are no streams, by
// their full name.
var unaryMethods = func() map[string]*grpc.MethodDesc {
	out := map[string]*grpc.MethodDesc{}
	for _, s := range controlpb.OperatorServices {
		for i := range s.Methods {
			d := &s.Methods[i]
			out[strings.Join([]string{"", s.ServiceName, d.MethodName}, "/")] = d
		}
	}
	return out
}()
