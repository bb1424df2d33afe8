package clitest

import (
	"context"
	"strings"

	"github.com/redoubt-cluster/redoubt/cmd/internal/control/apierr"
	"github.com/redoubt-cluster/redoubt/cmd/internal/control/controlpb"
	"github.com/redoubt-cluster/redoubt/scheduler/imagepolicy"
)

// GetImagePolicy implements ImagePolicy.
func (n *Node) GetImagePolicy(context.Context, *controlpb.GetImagePolicyRequest) (*controlpb.GetImagePolicyResponse, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	return &controlpb.GetImagePolicyResponse{Document: n.images, Version: 7, UpdatedAt: 1, Digest: "abcd"}, n.manager()
}

// SetImagePolicy implements ImagePolicy.
func (n *Node) SetImagePolicy(_ context.Context, r *controlpb.SetImagePolicyRequest) (*controlpb.SetImagePolicyResponse, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	p, err := imagepolicy.Parse(r.GetDocument())
	if err != nil {
		return nil, apierr.Invalid("", "%v", err)
	}
	n.images = r.GetDocument()
	return &controlpb.SetImagePolicyResponse{Digest: p.Digest(), Warnings: []string{"service web: its tasks go on, but none of them would start again"}}, nil
}

// RemoveImagePolicy implements ImagePolicy.
func (n *Node) RemoveImagePolicy(context.Context, *controlpb.RemoveImagePolicyRequest) (*controlpb.RemoveImagePolicyResponse, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.images == nil {
		return nil, apierr.NotFound("", "there is no image policy")
	}
	n.images = nil
	return &controlpb.RemoveImagePolicyResponse{}, nil
}

// CheckImage implements ImagePolicy: what has "unsigned" in its name is refused.
func (n *Node) CheckImage(_ context.Context, r *controlpb.CheckImageRequest) (*controlpb.CheckImageResponse, error) {
	resp := &controlpb.CheckImageResponse{Admitted: true, Image: r.GetImage(), Digest: "sha256:abcd", Rule: "own", Bundles: 2}
	if strings.Contains(r.GetImage(), "unsigned") {
		resp.Admitted, resp.Bundles, resp.Why = false, 0, "the image policy refuses it, rule own: it has no signature by release"
	}
	return resp, nil
}
