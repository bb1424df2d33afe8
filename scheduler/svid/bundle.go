package svid

import (
	"context"
	"errors"

	"google.golang.org/protobuf/proto"

	"github.com/redoubt-cluster/redoubt/pki/profile"
	"github.com/redoubt-cluster/redoubt/pki/profile/profilepb"
	"github.com/redoubt-cluster/redoubt/scheduler/schedulerpb"
)

func (h *Holder) isStale() bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.stale
}

// refresh asks for the bundle alone.
func (h *Holder) refresh(ctx context.Context) error {
	h.mu.Lock()
	h.stale = false // it may be said again while this one is asked for
	h.mu.Unlock()
	ctx, cancel := context.WithTimeout(ctx, issueTimeout)
	defer cancel()
	resp, err := h.c.Issue(ctx, &schedulerpb.IssueRequest{})
	var b *profilepb.WorkloadBundle
	if err == nil {
		b, err = h.openBundle(resp.GetBundle())
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	if err != nil {
		h.stale = true
		return err
	}
	h.takeBundle(b)
	return nil
}

// openBundle returns what is of this cluster, in the words of a CA below this node's
// roots.
func (h *Holder) openBundle(signed *profilepb.SignedWorkloadBundle) (*profilepb.WorkloadBundle, error) {
	by, _, err := h.trusted(signed.GetIssuer())
	if err != nil {
		return nil, err
	}
	b, err := profile.OpenBundle(by, signed)
	if err != nil {
		return nil, err
	}
	if b.GetClusterId() != h.c.ClusterID {
		return nil, errors.New("the managers answered with the bundle of another cluster")
	}
	return b, nil
}

// takeBundle takes over what tokens are verified with. Tokens of a key that is
// gone are forgotten. The Holder's mu is held.
func (h *Holder) takeBundle(b *profilepb.WorkloadBundle) {
	if b.GetEpoch() < h.bundle.GetEpoch() || proto.Equal(b, h.bundle) {
		return
	}
	h.bundle = b
	for _, e := range h.tasks {
		clear(e.tokens)
	}
	h.tellAll()
}
