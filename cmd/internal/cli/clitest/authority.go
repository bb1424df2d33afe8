package clitest

import (
	"context"
	"time"

	"github.com/redoubt-cluster/redoubt/cmd/internal/control/apierr"
	"github.com/redoubt-cluster/redoubt/cmd/internal/control/controlpb"
	"github.com/redoubt-cluster/redoubt/pki/pkipb"
	"github.com/redoubt-cluster/redoubt/pki/profile/profilepb"
)

// RotateCA implements Authority. A root's replacement goes on until it is watched.
func (n *Node) RotateCA(_ context.Context, r *controlpb.RotateCARequest) (*controlpb.RotateCAResponse, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.rotating {
		return nil, apierr.State("`redoubt ca rotate --watch` shows how far it is", "a root is being replaced already")
	}
	n.rotating = r.Root
	resp := &controlpb.RotateCAResponse{KeysetEpoch: 2}
	if n.away {
		resp.Away = []string{"manager-2"}
	}
	if r.Root {
		resp.TokensVoid = 2
	}
	return resp, nil
}

// AbortCA implements Authority.
func (n *Node) AbortCA(context.Context, *controlpb.AbortCARequest) (*controlpb.AbortCAResponse, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if !n.rotating {
		return nil, apierr.State("", "no root is being replaced: there is nothing to give up")
	}
	n.rotating = false
	return &controlpb.AbortCAResponse{}, nil
}

// WatchCA implements Authority: each phase is over as soon as it was shown.
func (n *Node) WatchCA(_ *controlpb.WatchCARequest, stream controlpb.Authority_WatchCAServer) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	nodes := n.caNodes()
	send := func(phase pkipb.Rotation_Phase, done bool) error {
		return stream.Send(&controlpb.WatchCAResponse{Phase: phase, Nodes: nodes, Connected: 1, Ready: 1, Done: done,
			Last: &pkipb.RotationResult{BeganAt: 1, EndedAt: 1 + int64(2*time.Second)}})
	}
	if n.rotating {
		for _, phase := range []pkipb.Rotation_Phase{pkipb.Rotation_PHASE_DISTRIBUTE, pkipb.Rotation_PHASE_REISSUE} {
			if err := send(phase, false); err != nil {
				return err
			}
		}
	}
	n.rotating = false
	return send(pkipb.Rotation_PHASE_UNSPECIFIED, true)
}

func (n *Node) caNodes() []*controlpb.CANode {
	out := []*controlpb.CANode{{Id: "a", Name: "manager-1", Role: profilepb.Role_ROLE_MANAGER, Connected: true, Trusts: true, Current: true, LeafNotAfter: 1735787045}}
	if n.away {
		out = append(out, &controlpb.CANode{Id: "b", Name: "manager-2", Role: profilepb.Role_ROLE_MANAGER, LeafNotAfter: 1735787045})
	}
	return out
}

// InspectCA implements Authority.
func (n *Node) InspectCA(context.Context, *controlpb.InspectCARequest) (*controlpb.InspectCAResponse, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	resp := &controlpb.InspectCAResponse{KeysetEpoch: 2, NextRotation: 1735787045, Nodes: n.caNodes(), OrderKey: n.orderKey, ClusterId: n.cluster, External: n.externalCA}
	if n.away && resp.External != nil {
		resp.External.Failure, resp.External.FailedAt = "it took too\x1b long", 1735787045
	}
	if n.away {
		resp.Unjournalled = []*pkipb.Unjournalled{{NodeId: "b", Role: profilepb.Role_ROLE_MANAGER, Serial: "4711\x1b", At: 1735787045, Source: "192.0.2.66"}}
		if n.externalCA != nil {
			resp.Unjournalled[0].External = true
		}
	}
	return resp, nil
}

// SetExternalCA implements Authority.
func (n *Node) SetExternalCA(_ context.Context, r *controlpb.SetExternalCARequest) (*controlpb.SetExternalCAResponse, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if len(r.Chain) != 2 || r.Url != "https://ca.example.com:9000" {
		return nil, apierr.Invalid("", "the address of an external CA is https://host[:port], and no more")
	}
	n.externalCA = &pkipb.External{Url: r.Url, Provisioner: r.Provisioner}
	return &controlpb.SetExternalCAResponse{KeysetEpoch: 3}, nil
}

// RemoveExternalCA implements Authority.
func (n *Node) RemoveExternalCA(context.Context, *controlpb.RemoveExternalCARequest) (*controlpb.RemoveExternalCAResponse, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.externalCA == nil {
		return nil, apierr.State("", "no external CA is set")
	}
	n.externalCA = nil
	return &controlpb.RemoveExternalCAResponse{KeysetEpoch: 4}, nil
}
