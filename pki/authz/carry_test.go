package authz

import (
	"context"
	"testing"

	"google.golang.org/grpc/peer"

	"github.com/redoubt-cluster/redoubt/pki/authz/authzpb"
)

// A call that is answered in place is judged as the same call would be that
// came over the protocol for it: by every rule, for every certificate.
func TestCarryJudgesAsTheConnection(t *testing.T) {
	d := newDirectory()
	a := New(Config{Directory: d, Judge: new(judge), Manager: func() bool { return true }})
	compared := 0
	for name, c := range callers(d) {
		p, ok := peer.FromContext(c.ctx)
		if !ok {
			continue
		}
		info, ok := p.AuthInfo.(*ConnInfo)
		if !ok || info.State.NegotiatedProtocol != ALPNLocal {
			continue
		}
		for k := range authzpb.Caller_name {
			method := methodOf(authzpb.Caller(k))
			want := tryUnary(a, c.ctx, method)
			ctx, got := a.Carry(NewContext(over(&LocalInfo{}), Identity{LocalRoot: true}), method, info.Peer)
			if (want == nil) != (got == nil) {
				t.Errorf("%s, %s: %v in place, %v over the connection", name, method, got, want)
			}
			if got != nil {
				continue
			}
			compared++
			if id, ok := FromContext(ctx); !ok || !id.LocalRoot || id.LocalRootOf != info.Peer.NodeID {
				t.Errorf("%s, %s: the handler sees %v", name, method, id)
			}
		}
	}
	if compared == 0 {
		t.Error("nothing was admitted: the table has no manager on local")
	}
	if _, err := a.Carry(NewContext(context.Background(), Identity{LocalRoot: true}), "/nobody.knows.Service/Method", d.node(0)); err == nil {
		t.Error("an unknown method is admitted")
	}
}
