package netd

import (
	"fmt"
	"sync"

	"github.com/redoubt-cluster/redoubt/mesh/netd/netdpb"
)

// parts puts declarations of networks together that come in parts.
type parts struct {
	mu    sync.Mutex // guards the following
	begun *netdpb.OverlayRequest
	size  int // endpoints in it
}

// add returns the whole once its last part is there, else nil. Whoever begins
// another one has given up the one before.
func (p *parts) add(req *netdpb.OverlayRequest) (whole *netdpb.OverlayRequest, err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.begun == nil && !req.GetMore() {
		return req, nil
	}
	begun := p.begun
	p.begun = nil // unless all is well
	switch {
	case begun == nil || begun.GetGeneration() != req.GetGeneration():
		if !req.GetMore() {
			return req, nil
		}
		begun, p.size = req, 0
	default:
		if _, err := begun.Join(req); err != nil {
			return nil, err
		}
	}
	for _, n := range req.GetNetworks() {
		p.size += len(n.GetEndpoints())
	}
	if n := len(begun.GetNetworks()); n > maxPartNetworks || p.size > maxPartEndpoints {
		return nil, fmt.Errorf("%d networks and %d endpoints in parts exceed the limits of %d and %d", n, p.size, maxPartNetworks, maxPartEndpoints)
	}
	if begun.GetMore() {
		p.begun = begun
		return nil, nil
	}
	return begun, nil
}
