package clitest

import (
	"bytes"
	"context"
	"strings"

	"google.golang.org/protobuf/proto"

	"github.com/redoubt-cluster/redoubt/cmd/internal/approvable"
	"github.com/redoubt-cluster/redoubt/cmd/internal/control/apierr"
	"github.com/redoubt-cluster/redoubt/cmd/internal/control/controlpb"
)

// approvalID is of what waits once something that others must approve was asked for.
const approvalID = "aaaabbbbccccddddeeeeffff22"

const createRole = "/redoubt.control.v1.Access/CreateRole"

// asked is what waits to be approved.
func asked() []byte {
	b, err := proto.MarshalOptions{Deterministic: true}.Marshal(&controlpb.CreateRoleRequest{Name: "guarded\u202e", Description: "two\nlines\x1b[2J", Verbs: []string{"node.list"}})
	if err != nil {
		panic(err) // it is a constant
	}
	return b
}

// guarded: two managers must be for a role that is called "guarded".
func (n *Node) guarded(name string) error {
	if name != "guarded" {
		return nil
	}
	for _, v := range n.waiting {
		if v.State == controlpb.ApprovalView_STATE_GRANTED {
			v.State, v.UsedAt = controlpb.ApprovalView_STATE_USED, v.RequestedAt+60
			return nil
		}
	}
	if len(n.waiting) == 0 {
		n.waiting = append(n.waiting, &controlpb.ApprovalView{Id: approvalID, Requester: "root:manager\x1b-1", Verbs: []string{"role.create"},
			Method: createRole, RequestedAt: 4891363200, ExpiresAt: 4891449600,
			State: controlpb.ApprovalView_STATE_WAITING, Progress: "1 of 2 people or managers"})
	}
	return apierr.New(apierr.ReasonApproval, "have it looked at and approved with `redoubt approval grant "+approvalID+"`, then run the same command again",
		"others must approve this, as approval %s: 1 of 2 people or managers so far, with you", approvalID)
}

// ListApprovals implements Approvals.
func (n *Node) ListApprovals(_ context.Context, r *controlpb.ListApprovalsRequest) (*controlpb.ListApprovalsResponse, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	resp := &controlpb.ListApprovalsResponse{}
	for _, v := range n.waiting {
		if r.GetAll() || v.GetState() == controlpb.ApprovalView_STATE_WAITING || v.GetState() == controlpb.ApprovalView_STATE_GRANTED {
			resp.Approvals = append(resp.Approvals, proto.CloneOf(v))
		}
	}
	return resp, nil
}

func (n *Node) approval(ref string) (*controlpb.ApprovalView, error) {
	for _, v := range n.waiting {
		if strings.HasPrefix(v.GetId(), ref) {
			return v, nil
		}
	}
	return nil, apierr.NotFound("`redoubt approval ls` lists them", "there is no approval %q", ref)
}

// GetApproval implements Approvals.
func (n *Node) GetApproval(_ context.Context, r *controlpb.GetApprovalRequest) (*controlpb.GetApprovalResponse, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	v, err := n.approval(r.GetApproval())
	if err != nil {
		return nil, err
	}
	resp := &controlpb.GetApprovalResponse{Approval: proto.CloneOf(v), Request: asked()}
	if n.forges { // as whoever carries the answer could
		resp.Approval.Hash, resp.Approval.Fields = approvable.Hash(createRole, asked()), []*controlpb.ApprovalField{{Path: "name", Value: "harmless"}}
		if resp.Request, err = proto.Marshal(&controlpb.CreateRoleRequest{Name: "forged"}); err != nil {
			return nil, err
		}
	}
	return resp, nil
}

// DecideApproval implements Approvals: as another manager's root.
func (n *Node) DecideApproval(_ context.Context, r *controlpb.DecideApprovalRequest) (*controlpb.DecideApprovalResponse, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	v, err := n.approval(r.GetApproval())
	switch {
	case err != nil:
		return nil, err
	case r.GetGrant() && !bytes.Equal(r.GetHash(), approvable.Hash(createRole, asked())):
		return nil, apierr.State("look at it again", "what was looked at is not what it is for")
	case v.State != controlpb.ApprovalView_STATE_WAITING:
		return nil, apierr.Exists("somebody else must be for it, too", "root:manager-2 has approved it already, and counts once")
	}
	v.State, v.Progress = controlpb.ApprovalView_STATE_GRANTED, "2 of 2 people or managers"
	if !r.GetGrant() {
		v.State = controlpb.ApprovalView_STATE_DENIED
	}
	v.Votes = append(v.Votes, &controlpb.ApprovalVote{By: "root:manager-2", Denied: !r.GetGrant(), At: v.RequestedAt + 30, Counts: r.GetGrant()})
	return &controlpb.DecideApprovalResponse{Approval: proto.CloneOf(v)}, nil
}
