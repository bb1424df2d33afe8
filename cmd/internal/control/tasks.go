package control

import (
	"cmp"
	"context"
	"errors"
	"slices"

	"github.com/redoubt-cluster/redoubt/cmd/internal/control/controlpb"
	pkistore "github.com/redoubt-cluster/redoubt/pki/store"
	"github.com/redoubt-cluster/redoubt/raftstore"
	"github.com/redoubt-cluster/redoubt/scheduler/schedulerpb"
	schedstore "github.com/redoubt-cluster/redoubt/scheduler/store"
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
	images := map[uint64]string{}
	for _, t := range tasks {
		image, ok := images[t.GetRevision()]
		if !ok {
			if rev, found := schedstore.Revisions.Get(r, schedstore.RevisionID(svc.GetId(), t.GetRevision())); found {
				image = rev.GetSpec().GetContainer().GetImage()
			}
			images[t.GetRevision()] = image
		}
		v := &controlpb.TaskView{Task: t, ServiceName: svc.GetSpec().GetName(),
			NodeName: nodeName(r, cmp.Or(t.GetNodeId(), t.GetTargetNodeId())), Image: image}
		if err := yield(v); err != nil {
			return err
		}
	}
	return nil
}

func nodeName(r raftstore.Reader, id string) string {
	n, _ := pkistore.Nodes.Get(r, id)
	return n.GetName()
}

// WatchService sends the service with its tasks at once and after every
// change, until it is removed. Changes that come while one is sent are merged.
func (s *Server) WatchService(req *controlpb.WatchServiceRequest, stream controlpb.Control_WatchServiceServer) error {
	ctx := stream.Context()
	var id string
	err := s.view(ctx, func(r *raftstore.ReadTx) error {
		svc, err := schedstore.ResolveService(r, req.GetService())
		id = svc.GetId()
		return err
	})
	for err == nil || errors.Is(err, raftstore.ErrLagged) {
		var done bool
		if done, err = s.watchService(stream, id); done {
			return nil
		}
	}
	if ctx.Err() != nil {
		return ctx.Err()
	}
	return err
}

// watchService follows until the service is removed (done), or something ends
// the watch.
func (s *Server) watchService(stream controlpb.Control_WatchServiceServer, id string) (done bool, err error) {
	w, err := s.c.Store.Watch(func(*raftstore.ReadTx) error { return nil }, schedstore.Services, schedstore.Tasks)
	if err != nil {
		return false, err
	}
	defer w.Close()
	for {
		msg := &controlpb.WatchServiceResponse{}
		err := s.c.Store.View(func(r *raftstore.ReadTx) error {
			svc, ok := schedstore.Services.Get(r, id)
			if msg.Removed = !ok; ok {
				msg.Service, msg.Tasks = serviceView(r, svc), taskViews(r, svc, "")
			}
			return nil
		})
		if err == nil {
			err = stream.Send(msg)
		}
		if err != nil || msg.Removed {
			return msg.Removed, err
		}
		for changed := false; !changed; {
			events, err := w.Next(stream.Context())
			if err != nil {
				return false, err
			}
			changed = slices.ContainsFunc(events, func(e raftstore.Event) bool { return concerns(e, id) })
		}
	}
}

func concerns(e raftstore.Event, service string) bool {
	if old, now, ok := schedstore.Services.Event(e); ok {
		return old.GetId() == service || now.GetId() == service
	}
	old, now, ok := schedstore.Tasks.Event(e)
	return ok && (old.GetServiceId() == service || now.GetServiceId() == service)
}
