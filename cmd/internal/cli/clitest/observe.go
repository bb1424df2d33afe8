package clitest

import (
	"context"
	"time"

	"google.golang.org/grpc"

	"github.com/redoubt-cluster/redoubt/cmd/internal/control/apierr"
	"github.com/redoubt-cluster/redoubt/cmd/internal/control/controlpb"
	"github.com/redoubt-cluster/redoubt/internal/ident"
)

// Explain implements Control.
func (n *Node) Explain(_ context.Context, r *controlpb.ExplainRequest) (*controlpb.ExplainResponse, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	svc := n.find(r.Target)
	if svc == nil {
		return nil, apierr.NotFound("", "no service %q", r.Target)
	}
	return &controlpb.ExplainResponse{
		Service: n.viewOf(svc), Summary: []string{svc.Spec.Name + " wants 2 tasks and 2 run", "1 of 2 nodes could run one more"},
		Nodes: []*controlpb.NodeVerdict{{NodeId: n.id, Name: "manager-1", ServiceTasks: 2, Tasks: 2},
			{NodeId: ident.New(), Name: "worker-1", Reason: "drained", Tasks: 3}},
		Remedies: []string{"redoubt node update --availability active worker-1"},
	}, n.manager()
}

// Events implements Control; the stream ends at once.
func (n *Node) Events(_ *controlpb.EventsRequest, s grpc.ServerStreamingServer[controlpb.EventsResponse]) error {
	at := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC).UnixNano()
	return s.Send(&controlpb.EventsResponse{Events: []*controlpb.Event{
		{At: at, Type: "cluster", Action: "events-lost"},
		{At: at, Type: "task", Action: "failed", Id: ident.New(), Name: "web.1\x1b[2J", Attributes: map[string]string{"node": "worker-1", "error": "exited with 3", "service": "web", "stack": "shop"}},
	}})
}
