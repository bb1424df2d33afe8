package node

import (
	"context"
	"fmt"
	"net"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"github.com/redoubt-cluster/redoubt/cmd/internal/control/controlpb"
	"github.com/redoubt-cluster/redoubt/pki/profile/profilepb"
	pkistore "github.com/redoubt-cluster/redoubt/pki/store"
	"github.com/redoubt-cluster/redoubt/raftstore"
	spb "google.golang.org/genproto/googleapis/rpc/status"
)

// TestCarriedIsJudgedAlike calls every RPC over a shared stream and by itself: who
// may open the stream may do no more in it, and what ends the rights of this
// manager ends them in a stream that is open.
func TestCarriedIsJudgedAlike(t *testing.T) {
	w := newCallerWorld(t)
	cc, err := grpc.NewClient("passthrough:///"+w.local, grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) { return dialAs(ctx, w.local, 0, 0) }))
	if err != nil {
		t.Fatal(err)
	}
	defer cc.Close()
	shared, err := controlpb.NewCallStreamClient(cc).Calls(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	var last uint64
	carry := func(method string) error {
		last++
		// An answer that takes long is one, too; an empty request is soon refused
		// by nearly every handler.
		call := &controlpb.Call{Id: last, Method: method, Timeout: int64(3 * time.Second)}
		if err := shared.Send(&controlpb.CallBatch{Calls: []*controlpb.Call{call}}); err != nil {
			t.Fatal(err)
		}
		in, err := shared.Recv()
		if err != nil {
			t.Fatal(err)
		}
		if len(in.GetAnswers()) != 1 || in.GetAnswers()[0].GetId() != last {
			t.Fatalf("%s: %v", method, in)
		}
		refusal := &spb.Status{}
		if err := proto.Unmarshal(in.GetAnswers()[0].GetStatus(), refusal); err != nil {
			t.Fatal(err)
		}
		return status.ErrorProto(refusal)
	}
	compare := func(want outcome) {
		for _, md := range rpcs() {
			name, got := method(md), outcome("")
			switch {
			case !controlpb.OperatorMethod(name) || md.IsStreamingClient() || md.IsStreamingServer():
				if err := carry(name); status.Code(err) == codes.OK {
					t.Errorf("%s was carried", name)
				}
				continue
			default:
				got = outcomeOf(name, carry(name))
			}
			if alone := invoke(t, cc, name, nil, want); got != alone || got != want {
				t.Errorf("%s: %s over the stream, %s by itself, want %s", name, got, alone, want)
			}
		}
	}
	compare(reached)
	self := w.m.creds.Peer().NodeID
	w.update(t, func(tx *raftstore.Tx) error {
		n, ok := pkistore.Nodes.Get(tx, self)
		if !ok {
			return fmt.Errorf("no record of %s", self)
		}
		n = proto.CloneOf(n)
		n.Denied = true
		return pkistore.Nodes.Put(tx, n)
	})
	compare(refused)
	w.update(t, func(tx *raftstore.Tx) error {
		n, ok := pkistore.Nodes.Get(tx, self)
		if !ok {
			return fmt.Errorf("no record of %s", self)
		}
		n = proto.CloneOf(n)
		n.Denied, n.Role = false, profilepb.Role_ROLE_WORKER
		return pkistore.Nodes.Put(tx, n)
	})
	compare(refused)
}
