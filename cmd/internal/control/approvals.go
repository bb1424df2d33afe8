package control

import (
	"cmp"
	"context"
	"slices"

	"github.com/redoubt-cluster/redoubt/cmd/internal/control/apierr"
	"github.com/redoubt-cluster/redoubt/cmd/internal/control/controlpb"
	"github.com/redoubt-cluster/redoubt/cmd/internal/roles"
	"github.com/redoubt-cluster/redoubt/pki/pkipb"
	pkistore "github.com/redoubt-cluster/redoubt/pki/store"
	"github.com/redoubt-cluster/redoubt/raftstore"
)

// ListApprovals implements Approvals.
func (s *Server) ListApprovals(ctx context.Context, req *controlpb.ListApprovalsRequest) (*controlpb.ListApprovalsResponse, error) {
	resp := &controlpb.ListApprovalsResponse{}
	// An Update, which writes nothing, as it knows what time it is.
	err := s.update(ctx, func(tx *raftstore.Tx) error {
		resp.Approvals = nil
		for a := range pkistore.Approvals.All(tx) {
			if req.GetAll() || !roles.Ended(a, tx.Now()) {
				v, err := s.approvalView(tx, a)
				if err != nil {
					return err
				}
				resp.Approvals = append(resp.Approvals, v)
			}
		}
		return nil
	})
	slices.SortFunc(resp.Approvals, func(a, b *controlpb.ApprovalView) int {
		return cmp.Or(cmp.Compare(a.GetRequestedAt(), b.GetRequestedAt()), cmp.Compare(a.GetId(), b.GetId()))
	})
	return resp, err
}

// GetApproval implements Approvals.
func (s *Server) GetApproval(ctx context.Context, req *controlpb.GetApprovalRequest) (*controlpb.GetApprovalResponse, error) {
	resp := &controlpb.GetApprovalResponse{}
	err := s.update(ctx, func(tx *raftstore.Tx) error {
		a, err := roles.ResolveApproval(tx, req.GetApproval())
		if err != nil {
			return err
		}
		if resp.Approval, err = s.approvalView(tx, a); err != nil {
			return err
		}
		resp.Request = a.GetRequest()
		return nil
	})
	return resp, err
}

// DecideApproval implements Approvals.
func (s *Server) DecideApproval(ctx context.Context, req *controlpb.DecideApprovalRequest) (*controlpb.DecideApprovalResponse, error) {
	p, err := whoCalls(ctx)
	if err != nil {
		return nil, err
	}
	resp := &controlpb.DecideApprovalResponse{}
	return resp, s.update(ctx, func(tx *raftstore.Tx) error {
		a, err := s.c.Roles.DecideApproval(tx, p, req.GetApproval(), req.GetGrant(), req.GetHash())
		if err == nil {
			resp.Approval, err = s.approvalView(tx, a)
		}
		return err
	})
}

func (s *Server) approvalView(tx *raftstore.Tx, a *pkipb.Approval) (*controlpb.ApprovalView, error) {
	v := &controlpb.ApprovalView{Id: a.GetId(), Requester: roles.Named(tx, roles.PrincipalOf(a.GetRequester())), Verbs: a.GetVerbs(), Method: a.GetMethod(),
		RequestedAt: a.GetRequestedAt(), ExpiresAt: a.GetExpiresAt(), UsedAt: a.GetUsedAt()}
	// Whoever asked may not be permitted it any more, or asked another version: then it
	// comes to nothing, and is shown all the same.
	standing, err := s.c.Roles.Standing(tx, a)
	if err != nil {
		if apierr.ReasonOf(err) == "" {
			return nil, err
		}
		standing.Progress = err.Error()
	}
	v.Progress = standing.Progress
	switch {
	case a.GetUsedAt() != 0:
		v.State = controlpb.ApprovalView_STATE_USED
	case roles.Denied(a):
		v.State = controlpb.ApprovalView_STATE_DENIED
	case roles.Ended(a, tx.Now()):
		v.State = controlpb.ApprovalView_STATE_EXPIRED
	case standing.Enough:
		v.State = controlpb.ApprovalView_STATE_GRANTED
	default:
		v.State = controlpb.ApprovalView_STATE_WAITING
	}
	for i, vote := range a.GetVotes() {
		v.Votes = append(v.Votes, &controlpb.ApprovalVote{By: roles.Named(tx, roles.PrincipalOf(vote.GetBy())), Denied: vote.GetDenied(), At: vote.GetAt(),
			Counts: i < len(standing.Counts) && standing.Counts[i]})
	}
	return v, nil
}
