package agenttest

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/redoubt-cluster/redoubt/mesh/netd/netdpb"
	"google.golang.org/protobuf/proto"
)

// Netd stands in for netd: it keeps the state that was applied and touches no
// kernel. It refuses what netd refuses: an older generation, a port that
// another endpoint has. It is a mesh.Caller.
type Netd struct {
	mu         sync.Mutex
	generation uint64
	endpoints  map[string]*netdpb.Endpoint
	features   []*netdpb.Feature
	fail       map[string]string
	down       bool
	slow       time.Duration
	applies    int

	overlays   map[string]*netdpb.OverlayNetwork
	overlayGen uint64
	lost       []string

	ingress    map[string]*netdpb.IngressService
	ingressGen uint64
	sandboxes  map[string]string // told names, and on no network of netd's
	taken      map[uint32]string
}

// NewNetd returns one that has nothing attached.
func NewNetd() *Netd {
	return &Netd{endpoints: map[string]*netdpb.Endpoint{}, fail: map[string]string{}, overlays: map[string]*netdpb.OverlayNetwork{}, ingress: map[string]*netdpb.IngressService{}, taken: map[uint32]string{}}
}

// Restart is a crash of netd: the data plane stays, the generation does not.
func (n *Netd) Restart() {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.generation, n.overlayGen, n.ingressGen = 0, 0, 0
}

// SetDown makes every call fail, or work again.
func (n *Netd) SetDown(down bool) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.down = down
}

// SetSlow has every answer come that long after what was asked for is done.
func (n *Netd) SetSlow(d time.Duration) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.slow = d
}

// Fail makes a task's endpoint fail with this text; empty: no more.
func (n *Netd) Fail(task, text string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.fail[task] = text
}

// SetFeatures is what Probe answers from now on.
func (n *Netd) SetFeatures(f ...*netdpb.Feature) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.features = f
}

// Endpoint is the task's endpoint, or nil when it is not attached.
func (n *Netd) Endpoint(task string) *netdpb.Endpoint {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.endpoints[task]
}

// Len counts the attached endpoints.
func (n *Netd) Len() int {
	n.mu.Lock()
	defer n.mu.Unlock()
	return len(n.endpoints)
}

// Generation is the last one applied since the last Restart; 0: none.
func (n *Netd) Generation() uint64 {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.generation
}

// Call answers like netd.
func (n *Netd) Call(ctx context.Context, req, resp proto.Message) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	err := n.answer(req, resp)
	n.mu.Lock()
	slow := n.slow
	n.mu.Unlock()
	select {
	case <-time.After(slow):
		return err
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (n *Netd) answer(req, resp proto.Message) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.down {
		return errors.New("connection refused")
	}
	out := resp.(*netdpb.Response)
	switch v := req.(*netdpb.Request).Verb.(type) {
	case *netdpb.Request_Probe:
		out.Result = &netdpb.Response_Probe{Probe: &netdpb.ProbeResponse{Features: n.features}}
	case *netdpb.Request_State:
		out.Result = &netdpb.Response_State{State: &netdpb.StateResponse{Generation: n.generation}}
	case *netdpb.Request_Apply:
		if v.Apply.Generation <= n.generation {
			out.Result = &netdpb.Response_Error{Error: &netdpb.Error{Message: "older generation"}}
			return nil
		}
		out.Result = &netdpb.Response_Apply{Apply: n.apply(v.Apply)}
	default:
		if !n.answerIngress(v, out) {
			n.answerOverlay(v, out)
		}
	}
	return nil
}

func (n *Netd) apply(a *netdpb.ApplyRequest) *netdpb.ApplyResponse {
	n.generation = a.Generation
	n.applies++
	n.endpoints = map[string]*netdpb.Endpoint{}
	ports := map[string]bool{}
	out := &netdpb.ApplyResponse{}
	for _, e := range a.Endpoints {
		r := &netdpb.EndpointResult{TaskId: e.TaskId, Error: n.fail[e.TaskId]}
		for _, p := range e.Ports {
			key := fmt.Sprint(p.Published, p.Udp)
			if ports[key] && r.Error == "" {
				r.Error = fmt.Sprintf("port %d is in use on this node", p.Published)
			}
			ports[key] = true
		}
		if r.Error == "" {
			n.endpoints[e.TaskId] = proto.CloneOf(e)
		}
		out.Results = append(out.Results, r)
	}
	return out
}

// Reboot is a restart of the machine: nothing is attached.
func (n *Netd) Reboot() {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.generation, n.overlayGen, n.ingressGen = 0, 0, 0
	n.ingress = map[string]*netdpb.IngressService{}
	n.sandboxes = nil
	n.endpoints = map[string]*netdpb.Endpoint{}
	n.overlays = map[string]*netdpb.OverlayNetwork{}
}
