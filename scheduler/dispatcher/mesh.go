package dispatcher

import (
	"context"
	"errors"

	"github.com/redoubt-cluster/redoubt/internal/oneline"
	"github.com/redoubt-cluster/redoubt/scheduler/schedulerpb"
)

// Errors of Mesh, for callers that know more words for them.
var (
	ErrNoMesh = errors.New("the node is no part of a mesh: its version has none, or it shares no network with others yet")
)

// Mesh asks a node for its end of the tunnels and, with rotate, to begin to change
// its WireGuard key first.
func (d *Dispatcher) Mesh(ctx context.Context, node string, rotate bool) (*schedulerpb.MeshState, error) {
	a, err := ask[*schedulerpb.MeshAnswer](ctx, d, node, "mesh", askPatience, ErrNoMesh, func(id string) *schedulerpb.ManagerMessage {
		return &schedulerpb.ManagerMessage{Message: &schedulerpb.ManagerMessage_Mesh{Mesh: &schedulerpb.MeshRequest{Id: id, RotateKey: rotate}}}
	})
	switch {
	case err != nil:
		return nil, err
	case a.GetError() != "":
		return nil, errors.New(a.GetError())
	}
	return a.GetState(), nil
}

// answeredMesh takes a node's answer.
func (s *session) answeredMesh(a *schedulerpb.MeshAnswer) {
	clean := &schedulerpb.MeshAnswer{Error: oneline.Text(a.GetError(), maxMessageText), State: cleanMesh(a.GetState())}
	if clean.State == nil && clean.Error == "" {
		clean.Error = "the node answered nothing"
	}
	s.answered(a.GetId(), clean)
}

// cleanMesh bounds what a node says. All of it is shown, and nothing done with it.
func cleanMesh(in *schedulerpb.MeshState) *schedulerpb.MeshState {
	if in == nil {
		return nil
	}
	text := func(s string) string { return oneline.Text(s, maxMessageText) }
	out := &schedulerpb.MeshState{Address: text(in.Address), Interface: text(in.Interface), Driver: text(in.Driver), Mode: text(in.Mode),
		Mtu: in.Mtu, Repairs: in.Repairs, LeftOut: in.LeftOut, ListenPort: in.ListenPort, ChangingKey: in.ChangingKey, OwnKeyNs: in.OwnKeyNs,
		Dropped: map[string]uint64{}}
	if len(in.PublicKey) == 32 {
		out.PublicKey = in.PublicKey
	}
	for _, t := range in.Degraded[:min(len(in.Degraded), maxMeshLines)] {
		out.Degraded = append(out.Degraded, text(t))
	}
	for reason, n := range in.Dropped {
		if len(out.Dropped) < maxMeshLines {
			out.Dropped[text(reason)] = n
		}
	}
	for _, p := range in.Peers[:min(len(in.Peers), schedulerpb.MaxMeshPeers)] {
		out.Peers = append(out.Peers, &schedulerpb.MeshPeerState{NodeId: text(p.GetNodeId()), Address: text(p.GetAddress()), Endpoint: text(p.GetEndpoint()),
			HandshakeNs: p.HandshakeNs, ReceivedBytes: p.GetReceivedBytes(), SentBytes: p.GetSentBytes(), KeyNs: p.KeyNs, Error: text(p.GetError()),
			Mtu: p.GetMtu(), Degraded: text(p.GetDegraded())})
	}
	return out
}
