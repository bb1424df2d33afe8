package control

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/redoubt-cluster/redoubt/cmd/internal/control/apierr"
	"github.com/redoubt-cluster/redoubt/cmd/internal/control/controlpb"
	"github.com/redoubt-cluster/redoubt/raftstore"
	"github.com/redoubt-cluster/redoubt/scheduler/imagepolicy"
	schedstore "github.com/redoubt-cluster/redoubt/scheduler/store"
	"github.com/redoubt-cluster/redoubt/scheduler/taskpb"
)

// imageRemedy is what a caller can do about a refusal.
const imageRemedy = "`redoubt image policy check IMAGE` says what is missing"

// GetImagePolicy implements ImagePolicy.
func (s *Server) GetImagePolicy(ctx context.Context, _ *controlpb.GetImagePolicyRequest) (*controlpb.GetImagePolicyResponse, error) {
	resp := &controlpb.GetImagePolicyResponse{}
	err := s.view(ctx, func(r *raftstore.ReadTx) error {
		p, ok := schedstore.ImagePolicies.Get(r, schedstore.ImagePolicyID)
		if !ok {
			return nil
		}
		resp.Document, resp.Version, resp.UpdatedAt = p.GetDocument(), p.GetMeta().GetVersion(), p.GetMeta().GetUpdatedAt()
		if parsed, err := imagepolicy.Parse(p.GetDocument()); err == nil {
			resp.Digest = parsed.Digest()
		}
		return nil
	})
	return resp, err
}

// SetImagePolicy implements ImagePolicy. What runs goes on.
func (s *Server) SetImagePolicy(ctx context.Context, req *controlpb.SetImagePolicyRequest) (*controlpb.SetImagePolicyResponse, error) {
	var set *imagepolicy.Policy
	err := s.update(ctx, func(tx *raftstore.Tx) (err error) {
		set, err = schedstore.SetImagePolicy(tx, req.GetDocument())
		return err
	})
	if err != nil {
		return nil, err
	}
	resp := &controlpb.SetImagePolicyResponse{Digest: set.Digest()}
	s.warn(ctx, &resp.Warnings, func(r raftstore.Reader) []string { return imagePolicyWarnings(r, set) })
	return resp, nil
}

// imagePolicyWarnings names the services that have images no rule is for.
func imagePolicyWarnings(r raftstore.Reader, p *imagepolicy.Policy) (out []string) {
	for svc := range schedstore.Services.All(r) {
		if _, err := p.Decide(svc.GetSpec().GetTask().GetContainer().GetImage()); err != nil {
			out = append(out, fmt.Sprintf("service %s: its tasks go on, but none of them would start again: %v", svc.GetSpec().GetName(), err))
		}
	}
	slices.Sort(out)
	if n := len(out); n > maxExplained {
		out = append(out[:maxExplained], fmt.Sprintf("and %d services more", n-maxExplained))
	}
	return out
}

// RemoveImagePolicy implements ImagePolicy.
func (s *Server) RemoveImagePolicy(ctx context.Context, _ *controlpb.RemoveImagePolicyRequest) (*controlpb.RemoveImagePolicyResponse, error) {
	err := s.update(ctx, func(tx *raftstore.Tx) error {
		if _, ok := schedstore.ImagePolicies.Get(tx, schedstore.ImagePolicyID); !ok {
			return apierr.NotFound("", "there is no image policy")
		}
		return schedstore.ImagePolicies.Delete(tx, schedstore.ImagePolicyID)
	})
	return &controlpb.RemoveImagePolicyResponse{}, err
}

// CheckImage implements ImagePolicy.
func (s *Server) CheckImage(ctx context.Context, req *controlpb.CheckImageRequest) (*controlpb.CheckImageResponse, error) {
	policy, err := s.imagePolicy(ctx)
	if err == nil && len(req.GetDocument()) > 0 {
		if policy, err = imagepolicy.Parse(req.GetDocument()); err != nil {
			err = apierr.Invalid("", "%v", err)
		}
	}
	if err != nil {
		return nil, err
	}
	if policy == nil {
		return nil, apierr.State("`redoubt image policy set FILE`, or give one by --policy", "there is no image policy")
	}
	digest, _, _, err := s.pin(ctx, req.GetImage())
	if err != nil {
		return nil, err
	}
	resp := &controlpb.CheckImageResponse{Image: req.GetImage(), Digest: digest}
	rule, err := policy.Decide(req.GetImage())
	if err == nil {
		resp.Rule = rule.Name()
		var e imagepolicy.Evidence
		e, err = s.verdict(ctx, rule, req.GetImage(), digest)
		resp.Bundles = uint32(len(e.Bundles))
	}
	if err != nil && !imagepolicy.IsRefusal(err) {
		return nil, err
	}
	if resp.Admitted = err == nil; err != nil {
		resp.Why = err.Error()
	}
	return resp, nil
}

// imagePolicy is the one in force now; nil: there is none.
func (s *Server) imagePolicy(ctx context.Context) (p *imagepolicy.Policy, err error) {
	err = s.view(ctx, func(r *raftstore.ReadTx) (err error) {
		if p, err = schedstore.ImagePolicyOf(r); err != nil {
			return apierr.State("upgrade this manager, or set a policy that it reads", "no image is admitted: %v", err)
		}
		return nil
	})
	return p, err
}

// verdict asks for what is beside an image, where its rule wants to know, and judges.
func (s *Server) verdict(ctx context.Context, rule *imagepolicy.Rule, image, digest string) (e imagepolicy.Evidence, err error) {
	if !rule.NeedsEvidence() {
		return e, nil
	}
	asking, cancel := context.WithTimeout(ctx, resolveTimeout)
	defer cancel()
	kept, err := s.c.Images.Evidence(asking, image, digest, true)
	if err != nil {
		return kept, err
	}
	if rule.Verify(digest, kept, time.Now()) == nil {
		return kept, nil
	}
	e, err = s.c.Images.Evidence(asking, image, digest, false)
	switch {
	case ctx.Err() != nil:
		return e, ctx.Err()
	case asking.Err() != nil:
		e.Left = append(e.Left, fmt.Sprintf("its registry did not answer within %s", resolveTimeout))
	case err != nil:
		e.Left = append(e.Left, strings.TrimPrefix(err.Error(), "image "+image+": "))
	}
	e.Add(kept)
	return e, rule.Verify(digest, e, time.Now())
}

// admitImage refuses what the image policy does, as every node does again before it
// makes a container. What only shows itself to a credential of the service's is
// left to them: managers have none.
func (s *Server) admitImage(ctx context.Context, c *taskpb.ContainerSpec) (warnings []string, err error) {
	policy, err := s.imagePolicy(ctx)
	if policy == nil || err != nil {
		return nil, err
	}
	rule, err := policy.Decide(c.GetImage())
	if err == nil {
		_, err = s.verdict(ctx, rule, c.GetImage(), c.GetDigest())
		if err != nil && c.GetRegistryAuth() != "" {
			return []string{fmt.Sprintf("the signatures of image %s are verified by the nodes alone, as they are not shown without the registry's secret", c.GetImage())}, nil
		}
	}
	if err != nil {
		return nil, apierr.State(imageRemedy, "image %s: %v", c.GetImage(), err)
	}
	return nil, nil
}
