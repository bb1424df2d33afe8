package netdpb

import (
	"errors"
	"fmt"

	"google.golang.org/protobuf/proto"
)

// Parts divides a declaration into such as have at most that many bytes, but for
// a network that is larger by itself: networks are not divided.
func (x *OverlayRequest) Parts(most int) (parts []*OverlayRequest) {
	if proto.Size(x) <= most {
		return []*OverlayRequest{x}
	}
	next := func() *OverlayRequest {
		p := &OverlayRequest{Generation: x.GetGeneration(), Base: x.GetBase(), More: true}
		parts = append(parts, p)
		return p
	}
	p := next()
	p.MeshAddress, p.Removed, p.Sandboxes, p.SandboxesChanged = x.GetMeshAddress(), x.GetRemoved(), x.GetSandboxes(), x.GetSandboxesChanged()
	size := proto.Size(p)
	for _, n := range x.GetNetworks() {
		const around = 8 // the field's number and length
		add := proto.Size(n) + around
		if size+add > most && len(p.GetNetworks()) > 0 {
			p = next()
			size = proto.Size(p)
		}
		p.Networks = append(p.Networks, n)
		size += add
	}
	p.More = false
	return parts
}

// Join adds the part that came next to x, which is as Parts began it, and reports
// whether it is whole.
func (x *OverlayRequest) Join(next *OverlayRequest) (whole bool, err error) {
	switch {
	case next.GetGeneration() != x.GetGeneration() || next.GetBase() != x.GetBase():
		return false, fmt.Errorf("a part of generation %d was expected, not of %d: begin again", x.GetGeneration(), next.GetGeneration())
	case next.GetMeshAddress() != "" || len(next.GetRemoved())+len(next.GetSandboxes()) > 0 || next.GetSandboxesChanged():
		return false, errors.New("parts after the first have networks and nothing else")
	}
	x.Networks = append(x.Networks, next.GetNetworks()...)
	x.More = next.GetMore()
	return !x.More, nil
}
