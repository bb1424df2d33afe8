package peer

import (
	"context"
	"errors"
	"fmt"

	"github.com/redoubt-cluster/redoubt/mesh"
	"github.com/redoubt-cluster/redoubt/mesh/netd/netdpb"
)

// Netd is the Fabric at the other end of netd's socket.
func Netd(c mesh.Caller) Fabric { return netd{c} }

type netd struct{ c mesh.Caller }

func (n netd) call(ctx context.Context, req *netdpb.Request) (*netdpb.Response, error) {
	var resp netdpb.Response
	if err := n.c.Call(ctx, req, &resp); err != nil {
		return nil, fmt.Errorf("netd is not answering: %w", err)
	}
	if e := resp.GetError(); e != nil {
		return nil, fmt.Errorf("netd refused: %s", e.GetMessage())
	}
	return &resp, nil
}

var errOther = errors.New("netd answered with something else")

func (n netd) Declare(ctx context.Context, req *netdpb.FabricRequest) (*netdpb.FabricResponse, error) {
	resp, err := n.call(ctx, &netdpb.Request{Verb: &netdpb.Request_Fabric{Fabric: req}})
	if err == nil && resp.GetFabric() == nil {
		err = errOther
	}
	return resp.GetFabric(), err
}

func (n netd) Rotate(ctx context.Context) (*netdpb.FabricRotateResponse, error) {
	resp, err := n.call(ctx, &netdpb.Request{Verb: &netdpb.Request_FabricRotate{FabricRotate: &netdpb.FabricRotateRequest{}}})
	if err == nil && resp.GetFabricRotate() == nil {
		err = errOther
	}
	return resp.GetFabricRotate(), err
}

func (n netd) Prove(ctx context.Context, req *netdpb.FabricProveRequest) (*netdpb.FabricProveResponse, error) {
	resp, err := n.call(ctx, &netdpb.Request{Verb: &netdpb.Request_FabricProve{FabricProve: req}})
	if err == nil && resp.GetFabricProve() == nil {
		err = errOther
	}
	return resp.GetFabricProve(), err
}

func (n netd) State(ctx context.Context) (*netdpb.FabricStateResponse, error) {
	resp, err := n.call(ctx, &netdpb.Request{Verb: &netdpb.Request_FabricState{FabricState: &netdpb.FabricStateRequest{}}})
	if err == nil && resp.GetFabricState() == nil {
		err = errOther
	}
	return resp.GetFabricState(), err
}
