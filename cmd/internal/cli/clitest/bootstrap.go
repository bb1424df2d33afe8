package clitest

import (
	"context"
	"errors"
	"io"
	"slices"
	"strings"

	"google.golang.org/grpc"

	"github.com/redoubt-cluster/redoubt/autolock"
	"github.com/redoubt-cluster/redoubt/cmd/internal/control/apierr"
	"github.com/redoubt-cluster/redoubt/cmd/internal/control/controlpb"
	"github.com/redoubt-cluster/redoubt/internal/ident"
	"github.com/redoubt-cluster/redoubt/pki/profile/profilepb"
)

// LocalStatus implements Bootstrap.
func (n *Node) LocalStatus(context.Context, *controlpb.LocalStatusRequest) (*controlpb.LocalStatusResponse, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	return &controlpb.LocalStatusResponse{Phase: n.phase, NodeId: n.id, ClusterId: n.cluster, Role: n.role, Version: "fake", Session: true}, nil
}

// Init implements Bootstrap.
func (n *Node) Init(_ context.Context, r *controlpb.InitRequest) (*controlpb.InitResponse, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.cluster != "" {
		return nil, apierr.InCluster(n.cluster)
	}
	if err := autolock.CheckSlot(r.Slot); err != nil {
		return nil, apierr.Invalid("", "%v", err)
	}
	if r.Advertise == "192.0.2.99:2377" {
		return nil, apierr.Invalid("name one of this machine's addresses", "192.0.2.99 is not this machine's")
	}
	n.phase, n.role, n.cluster, n.id = controlpb.NodePhase_NODE_PHASE_ACTIVE, profilepb.Role_ROLE_MANAGER, ident.New(), ident.New()
	return &controlpb.InitResponse{ClusterId: n.cluster, NodeId: n.id}, nil
}

// Join implements Bootstrap.
func (n *Node) Join(_ context.Context, r *controlpb.JoinRequest) (*controlpb.JoinResponse, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.cluster != "" {
		return nil, apierr.InCluster(n.cluster)
	}
	if !slices.Equal(r.Managers, []string{"192.0.2.10:2377"}) {
		return nil, apierr.Unreachable("check the address", "no manager answered at %v", r.Managers)
	}
	n.phase, n.role, n.cluster, n.id = controlpb.NodePhase_NODE_PHASE_ACTIVE, profilepb.Role_ROLE_WORKER, ident.New(), ident.New()
	return &controlpb.JoinResponse{ClusterId: n.cluster, NodeId: n.id, Role: n.role}, nil
}

// Leave implements Bootstrap.
func (n *Node) Leave(_ context.Context, r *controlpb.LeaveRequest) (*controlpb.LeaveResponse, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if !r.Force && n.role == profilepb.Role_ROLE_MANAGER {
		return nil, apierr.State("use --force to end the cluster", "this is the last manager")
	}
	n.phase, n.role, n.cluster, n.id = controlpb.NodePhase_NODE_PHASE_EMPTY, 0, "", ""
	return &controlpb.LeaveResponse{}, nil
}

// LoadImage implements Bootstrap.
func (n *Node) LoadImage(s grpc.ClientStreamingServer[controlpb.LoadImageRequest, controlpb.LoadImageResponse]) error {
	for {
		if _, err := s.Recv(); errors.Is(err, io.EOF) {
			return s.SendAndClose(&controlpb.LoadImageResponse{Images: map[string]string{
				"docker.io/library/web:1": "sha256:" + strings.Repeat("0", 64)}})
		} else if err != nil {
			return err
		}
	}
}
