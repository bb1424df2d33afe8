package control

import (
	"cmp"
	"context"
	"encoding/hex"
	"fmt"
	"slices"
	"time"

	"github.com/redoubt-cluster/redoubt/cmd/internal/control/controlpb"
	"github.com/redoubt-cluster/redoubt/pki"
	pkistore "github.com/redoubt-cluster/redoubt/pki/store"
	"github.com/redoubt-cluster/redoubt/raftstore"
	"github.com/redoubt-cluster/redoubt/scheduler/identity"
	"github.com/redoubt-cluster/redoubt/scheduler/schedulerpb"
	schedstore "github.com/redoubt-cluster/redoubt/scheduler/store"
)

// ListIdentities tells what tasks hold, as their nodes say, and which of those
// that run hold nothing.
func (s *Server) ListIdentities(ctx context.Context, req *controlpb.ListIdentitiesRequest) (*controlpb.ListIdentitiesResponse, error) {
	held := map[string]*schedulerpb.HeldIdentity{} // by node and task
	for node, list := range s.c.Held() {
		for _, h := range list {
			held[node+"/"+h.GetTaskId()] = h
		}
	}
	resp := &controlpb.ListIdentitiesResponse{}
	err := s.view(ctx, func(r *raftstore.ReadTx) error {
		only := ""
		if ref := req.GetService(); ref != "" {
			service, err := schedstore.ResolveService(r, ref)
			if err != nil {
				return err
			}
			only = service.GetId()
		}
		for t := range schedstore.Tasks.All(r) {
			if only != "" && t.GetServiceId() != only {
				continue
			}
			service := identified(r, t)
			if service == nil {
				continue
			}
			resp.Identities = append(resp.Identities, s.identityOf(r, t, service, held[t.GetNodeId()+"/"+t.GetId()]))
		}
		return nil
	})
	slices.SortFunc(resp.Identities, func(a, b *controlpb.WorkloadIdentityInfo) int {
		return cmp.Or(cmp.Compare(a.Identity, b.Identity), cmp.Compare(a.Slot, b.Slot), cmp.Compare(a.TaskId, b.TaskId))
	})
	return resp, refusal(err)
}

// identified is the service of a task that runs and has an identity; nil: it has none.
func identified(r raftstore.Reader, t *schedulerpb.Task) *schedulerpb.Service {
	if t.GetNodeId() == "" || t.GetDesired() > schedulerpb.TaskState_TASK_STATE_RUNNING || t.GetStatus().GetState() > schedulerpb.TaskState_TASK_STATE_RUNNING {
		return nil
	}
	service, ok := schedstore.Services.Get(r, t.GetServiceId())
	if !ok {
		return nil
	}
	if rev, ok := schedstore.Revisions.Get(r, schedstore.RevisionID(service.GetId(), t.GetRevision())); ok && rev.GetSpec().GetIdentity().GetNone() {
		return nil
	}
	return service
}

// tasksOf names the tasks that run and have that identity.
func (s *Server) tasksOf(r raftstore.Reader, id string) (names []string) {
	for t := range schedstore.Tasks.All(r) {
		if service := identified(r, t); service != nil && identity.Of(s.c.ClusterID, service) == id {
			node, _ := pkistore.Nodes.Get(r, t.GetNodeId())
			names = append(names, fmt.Sprintf("%s on %s", schedstore.TaskName(service.GetSpec().GetName(), t), cmp.Or(node.GetName(), t.GetNodeId())))
		}
	}
	slices.Sort(names)
	return names
}

func (s *Server) identityOf(r *raftstore.ReadTx, t *schedulerpb.Task, service *schedulerpb.Service, h *schedulerpb.HeldIdentity) *controlpb.WorkloadIdentityInfo {
	want := identity.Of(s.c.ClusterID, service)
	info := &controlpb.WorkloadIdentityInfo{Identity: want, ServiceId: service.GetId(), ServiceName: service.GetSpec().GetName(), TaskId: t.GetId(), Slot: t.GetSlot(),
		NodeId: t.GetNodeId(), Denied: pki.IdentityDenied(r, want)}
	if n, ok := pkistore.Nodes.Get(r, t.GetNodeId()); ok {
		info.NodeName = n.GetName()
	}
	if h.GetIdentity() != want { // nothing is said of it, or what is no more
		return info
	}
	info.Serial, info.Tokens, info.Streams, info.Files, info.Error = hex.EncodeToString(h.GetSerial()), h.GetTokens(), h.GetStreams(), h.GetFiles(), h.GetError()
	if h.GetExpiresAt() > time.Now().Unix() {
		info.IssuedAt, info.ExpiresAt = h.GetIssuedAt(), h.GetExpiresAt()
	}
	return info
}
