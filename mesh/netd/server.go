package netd

import (
	"context"
	"errors"
	"io"
	"net"
	"sync"

	"github.com/redoubt-cluster/redoubt/internal/peercred"
	"github.com/redoubt-cluster/redoubt/internal/wire"
	"github.com/redoubt-cluster/redoubt/mesh/netd/netdpb"
)

// Serve answers requests on l from processes of the user uid, and runs the
// node's repairs, until ctx ends or something fails. It closes l.
func (n *Node) Serve(ctx context.Context, l net.Listener, uid uint32) error {
	ctx, cancel := context.WithCancelCause(ctx)
	var running sync.WaitGroup
	running.Go(func() {
		if err := n.Run(ctx); err != nil {
			cancel(err)
		}
	})
	if n.fabric != nil {
		running.Go(func() {
			if err := n.fabric.Run(ctx); err != nil {
				cancel(err)
			}
		})
	}
	if n.overlays != nil {
		running.Go(func() {
			if err := n.overlays.Run(ctx); err != nil {
				cancel(err)
			}
		})
	}
	if n.ingress != nil {
		running.Go(func() {
			if err := n.ingress.Run(ctx); err != nil {
				cancel(err)
			}
		})
	}
	if n.handing != nil {
		running.Go(func() { cancel(n.handing.run(ctx)) })
	}
	stop := context.AfterFunc(ctx, func() { l.Close() })
	slots := make(chan struct{}, maxConns)
	denied := func(err error) { n.log.Warn("connection refused", "err", err) }
	pl := peercred.Listener(l, denied, uid)
	for {
		conn, err := pl.Accept()
		if err != nil {
			cancel(err)
			break
		}
		select {
		case slots <- struct{}{}:
		default:
			n.log.Warn("connection refused", "err", "too many connections")
			conn.Close()
			continue
		}
		running.Go(func() {
			defer func() { <-slots }()
			n.serveConn(ctx, conn)
		})
	}
	running.Wait()
	if stop() {
		l.Close()
	}
	return context.Cause(ctx)
}

func (n *Node) serveConn(ctx context.Context, conn net.Conn) {
	stop := context.AfterFunc(ctx, func() { conn.Close() })
	defer func() {
		if stop() {
			conn.Close()
		}
	}()
	for {
		var req netdpb.Request
		if err := wire.Read(conn, &req); err != nil {
			if !errors.Is(err, io.EOF) && ctx.Err() == nil {
				n.log.Warn("request refused", "err", err)
			}
			return
		}
		if err := wire.Write(conn, n.answer(ctx, &req)); err != nil {
			if ctx.Err() == nil {
				n.log.Warn("answer not sent", "err", err)
			}
			return
		}
	}
}

// answer refuses what it does not know.
func (n *Node) answer(ctx context.Context, req *netdpb.Request) *netdpb.Response {
	switch v := req.GetVerb().(type) {
	case *netdpb.Request_Probe:
		return &netdpb.Response{Result: &netdpb.Response_Probe{Probe: &netdpb.ProbeResponse{Features: n.Probe()}}}
	case *netdpb.Request_Apply:
		r, err := n.Apply(ctx, v.Apply)
		if err != nil {
			return refusal(err.Error())
		}
		return &netdpb.Response{Result: &netdpb.Response_Apply{Apply: r}}
	case *netdpb.Request_State:
		return &netdpb.Response{Result: &netdpb.Response_State{State: n.State()}}
	case *netdpb.Request_Note:
		return n.note.answer(v.Note)
	}
	if n.fabric != nil {
		if resp := n.answerFabric(ctx, req); resp != nil {
			return resp
		}
	}
	if n.overlays != nil {
		if resp := n.answerOverlay(ctx, req); resp != nil {
			return resp
		}
	}
	if n.ingress != nil {
		if resp := n.answerIngress(ctx, req); resp != nil {
			return resp
		}
	}
	return refusal("the request names no verb")
}

// answerIngress is nil for other requests.
func (n *Node) answerIngress(ctx context.Context, req *netdpb.Request) *netdpb.Response {
	switch v := req.GetVerb().(type) {
	case *netdpb.Request_Ingress:
		r, err := n.ingress.Declare(ctx, v.Ingress)
		if err != nil {
			return refusal(err.Error())
		}
		return &netdpb.Response{Result: &netdpb.Response_Ingress{Ingress: r}}
	case *netdpb.Request_IngressState:
		return &netdpb.Response{Result: &netdpb.Response_IngressState{IngressState: n.ingress.State()}}
	}
	return nil
}

// answerFabric is nil for other requests.
func (n *Node) answerFabric(ctx context.Context, req *netdpb.Request) *netdpb.Response {
	var resp netdpb.Response
	var err error
	switch v := req.GetVerb().(type) {
	case *netdpb.Request_Fabric:
		var r *netdpb.FabricResponse
		n.note.outlived(v.Fabric)
		r, err = n.fabric.Declare(ctx, v.Fabric)
		if n.overlays != nil {
			n.overlays.Follow()
		}
		resp.Result = &netdpb.Response_Fabric{Fabric: r}
	case *netdpb.Request_FabricRotate:
		var r *netdpb.FabricRotateResponse
		r, err = n.fabric.Rotate(ctx)
		resp.Result = &netdpb.Response_FabricRotate{FabricRotate: r}
	case *netdpb.Request_FabricProve:
		var r *netdpb.FabricProveResponse
		r, err = n.fabric.Prove(v.FabricProve)
		resp.Result = &netdpb.Response_FabricProve{FabricProve: r}
	case *netdpb.Request_FabricState:
		var r *netdpb.FabricStateResponse
		r, err = n.fabric.State()
		resp.Result = &netdpb.Response_FabricState{FabricState: r}
	default:
		return nil
	}
	if err != nil {
		return refusal(err.Error())
	}
	return &resp
}

// answerOverlay is nil for other requests.
func (n *Node) answerOverlay(ctx context.Context, req *netdpb.Request) *netdpb.Response {
	var resp netdpb.Response
	var err error
	switch v := req.GetVerb().(type) {
	case *netdpb.Request_Overlay:
		r := &netdpb.OverlayResponse{}
		var whole *netdpb.OverlayRequest
		if whole, err = n.parts.add(v.Overlay); whole != nil {
			r, err = n.overlays.Declare(ctx, whole)
		}
		if err == nil && whole != nil && n.handing != nil {
			n.handing.declared(whole)
		}
		resp.Result = &netdpb.Response_Overlay{Overlay: r}
	case *netdpb.Request_OverlayState:
		var r *netdpb.OverlayStateResponse
		r, err = n.overlays.State(!v.OverlayState.GetWithoutCounters())
		resp.Result = &netdpb.Response_OverlayState{OverlayState: r}
	default:
		return nil
	}
	if err != nil {
		return refusal(err.Error())
	}
	return &resp
}

func refusal(message string) *netdpb.Response {
	return &netdpb.Response{Result: &netdpb.Response_Error{Error: &netdpb.Error{Message: message}}}
}
