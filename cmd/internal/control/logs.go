package control

import (
	"context"
	"iter"
	"strings"

	"github.com/redoubt-cluster/redoubt/cmd/internal/control/apierr"
	"github.com/redoubt-cluster/redoubt/cmd/internal/control/controlpb"
	"github.com/redoubt-cluster/redoubt/raftstore"
	"github.com/redoubt-cluster/redoubt/scheduler/dispatcher"
	"github.com/redoubt-cluster/redoubt/scheduler/schedulerpb"
	schedstore "github.com/redoubt-cluster/redoubt/scheduler/store"
)

// LogSource brings tasks' output from their nodes: a *dispatcher.Dispatcher.
type LogSource interface {
	Logs(ctx context.Context, r dispatcher.LogRequest) iter.Seq2[*schedulerpb.LogChunk, error]
}

// ServiceLogs streams the output of a service's tasks, or of one task.
func (s *Server) ServiceLogs(req *controlpb.ServiceLogsRequest, stream controlpb.Control_ServiceLogsServer) error {
	type source struct{ task, node string }
	sources := map[string]source{}
	err := s.view(stream.Context(), func(r *raftstore.ReadTx) error {
		tasks, err := logTasks(r, req.GetTarget())
		for _, t := range tasks {
			if t.GetNodeId() == "" {
				continue // it has not run
			}
			svc, _ := schedstore.Services.Get(r, t.GetServiceId())
			sources[t.GetId()] = source{schedstore.TaskName(svc.GetSpec().GetName(), t), nodeName(r, t.GetNodeId())}
		}
		return err
	})
	if err != nil {
		return err
	}
	if len(sources) == 0 {
		return apierr.NotFound("see `redoubt service ps`", "%s has no task that has run", req.GetTarget())
	}
	ask := dispatcher.LogRequest{Follow: req.GetFollow(), Since: req.GetSince(), Tail: req.GetTail()}
	for id := range sources {
		ask.TaskIDs = append(ask.TaskIDs, id)
	}
	for chunk, err := range s.c.Logs.Logs(stream.Context(), ask) {
		if err != nil {
			return err
		}
		if chunk.GetEof() && chunk.GetError() == "" && len(chunk.GetData()) == 0 {
			continue
		}
		from := sources[chunk.GetTaskId()]
		err := stream.Send(&controlpb.ServiceLogsResponse{TaskId: chunk.GetTaskId(), TaskName: from.task, NodeName: from.node,
			At: chunk.GetAt(), Stderr: chunk.GetStderr(), Data: chunk.GetData(), Error: chunk.GetError()})
		if err != nil {
			return err
		}
	}
	return nil
}

// logTasks resolves a service, or where there is none, a task. Of a service's
// tasks only those that still have a container are asked.
func logTasks(r raftstore.Reader, target string) (out []*schedulerpb.Task, err error) {
	svc, err := schedstore.ResolveService(r, target)
	if err != nil {
		t, terr := schedstore.ResolveTask(r, target)
		if terr != nil {
			if strings.Contains(target, ".") {
				return nil, terr
			}
			return nil, err
		}
		return []*schedulerpb.Task{t}, nil
	}
	for t := range schedstore.Tasks.By(r, "service", svc.GetId()) {
		if schedstore.Live(t) {
			out = append(out, t)
		}
	}
	return out, nil
}
