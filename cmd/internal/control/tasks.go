package control

import (
	"cmp"
	"context"
	"slices"

	"github.com/redoubt-cluster/redoubt/cmd/internal/control/controlpb"
	pkistore "github.com/redoubt-cluster/redoubt/pki/store"
	"github.com/redoubt-cluster/redoubt/raftstore"
	"github.com/redoubt-cluster/redoubt/scheduler/schedulerpb"
	"github.com/redoubt-cluster/redoubt/scheduler/spec"
	schedstore "github.com/redoubt-cluster/redoubt/scheduler/store"
	"github.com/redoubt-cluster/redoubt/scheduler/taskpb"
)

// ListTasks returns the tasks of the named services and the named node.
func (s *Server) ListTasks(ctx context.Context, req *controlpb.ListTasksRequest) (*controlpb.ListTasksResponse, error) {
	resp := &controlpb.ListTasksResponse{}
	return resp, s.eachTask(ctx, req, collect(&resp.Tasks))
}

// StreamTasks is ListTasks in pages.
func (s *Server) StreamTasks(req *controlpb.ListTasksRequest, stream controlpb.Control_StreamTasksServer) error {
	p := &pages[*controlpb.TaskView]{send: func(page []*controlpb.TaskView) error {
		return stream.Send(&controlpb.ListTasksResponse{Tasks: page})
	}}
	return p.end(s.eachTask(stream.Context(), req, p.add))
}

func (s *Server) eachTask(ctx context.Context, req *controlpb.ListTasksRequest, yield func(*controlpb.TaskView) error) error {
	return s.view(ctx, func(r *raftstore.ReadTx) error {
		services, err := pick(r, req.GetServices())
		if err != nil {
			return err
		}
		var node string
		if req.GetNode() != "" {
			n, err := resolveNode(r, req.GetNode())
			if err != nil {
				return err
			}
			node = n.GetId()
		}
		for _, svc := range services {
			if err := eachTaskOf(r, svc, node, yield); err != nil {
				return err
			}
		}
		return nil
	})
}

// taskViews are the service's tasks, of one node or (node == "") of all, by
// slot, newest first.
func taskViews(r raftstore.Reader, svc *schedulerpb.Service, node string) (out []*controlpb.TaskView) {
	// It returns what yield does, and that is nil.
	_ = eachTaskOf(r, svc, node, func(v *controlpb.TaskView) error {
		out = append(out, v)
		return nil
	})
	return out
}

// eachTaskOf yields in that order. Only references to the tasks are held.
func eachTaskOf(r raftstore.Reader, svc *schedulerpb.Service, node string, yield func(*controlpb.TaskView) error) error {
	var tasks []*schedulerpb.Task
	for t := range schedstore.OfService(r, svc.GetId()) {
		if node == "" || t.GetNodeId() == node {
			tasks = append(tasks, t)
		}
	}
	slices.SortFunc(tasks, func(x, y *schedulerpb.Task) int {
		return cmp.Or(cmp.Compare(x.GetSlot(), y.GetSlot()), cmp.Compare(x.GetTargetNodeId(), y.GetTargetNodeId()),
			cmp.Compare(y.GetMeta().GetCreatedAt(), x.GetMeta().GetCreatedAt()), cmp.Compare(x.GetId(), y.GetId()))
	})
	of := specsOf(r, svc)
	for _, t := range tasks {
		if err := yield(taskView(r, svc, t, of(t))); err != nil {
			return err
		}
	}
	return nil
}

// specsOf returns what says what a task of the service was made from.
func specsOf(r raftstore.Reader, svc *schedulerpb.Service) func(*schedulerpb.Task) *taskpb.TaskSpec {
	known := map[uint64]*taskpb.TaskSpec{}
	return func(t *schedulerpb.Task) *taskpb.TaskSpec {
		s, ok := known[t.GetRevision()]
		if !ok {
			rev, _ := schedstore.Revisions.Get(r, schedstore.RevisionID(svc.GetId(), t.GetRevision()))
			s = rev.GetSpec()
			known[t.GetRevision()] = s
		}
		return s
	}
}

func taskView(r raftstore.Reader, svc *schedulerpb.Service, t *schedulerpb.Task, from *taskpb.TaskSpec) *controlpb.TaskView {
	v := &controlpb.TaskView{Task: t, ServiceName: svc.GetSpec().GetName(), NodeName: nodeName(r, cmp.Or(t.GetNodeId(), t.GetTargetNodeId())),
		Image: from.GetContainer().GetImage(), Networks: taskNetworks(r, t)}
	if schedstore.Live(t) {
		v.Ports = spec.HostPorts(from)
		if spec.HasIngress(from) { // those that are published are the service's
			v.Ports = append(v.Ports, spec.IngressPorts(svc.GetSpec().GetTask())...)
		}
	}
	return v
}

func nodeName(r raftstore.Reader, id string) string {
	n, _ := pkistore.Nodes.Get(r, id)
	return n.GetName()
}
