package control

import (
	"cmp"
	"errors"
	"maps"
	"slices"

	"github.com/redoubt-cluster/redoubt/cmd/internal/control/controlpb"
	"github.com/redoubt-cluster/redoubt/raftstore"
	schedstore "github.com/redoubt-cluster/redoubt/scheduler/store"
)

// WatchService sends the service with its tasks, and what changed of them until
// it is removed. A message and those that follow it while it says more belong
// together: whoever adds them up holds a state that was. Changes that come while
// one is sent are merged, so a slow caller is behind and never far.
func (s *Server) WatchService(req *controlpb.WatchServiceRequest, stream controlpb.Control_WatchServiceServer) error {
	ctx := stream.Context()
	var id string
	err := s.view(ctx, func(r *raftstore.ReadTx) error {
		svc, err := schedstore.ResolveService(r, req.GetService())
		id = svc.GetId()
		return err
	})
	w := &serviceWatch{server: s, stream: stream, id: id, run: req.GetRun(), changes: req.GetChanges()}
	for err == nil || errors.Is(err, raftstore.ErrLagged) {
		var done bool
		if done, err = w.follow(); done {
			return nil
		}
	}
	if ctx.Err() != nil {
		return ctx.Err()
	}
	return err
}

type serviceWatch struct {
	server  *Server
	stream  controlpb.Control_WatchServiceServer
	id      string
	run     uint64 // that the view of a job has in any case
	changes bool   // the caller adds up; otherwise it is sent the whole each time
}

// follow goes on until the service is removed (done), or something ends the
// watch.
func (w *serviceWatch) follow() (done bool, err error) {
	// What the snapshot and the first events both have is sent twice, which
	// changes nothing.
	events, err := w.server.c.Store.Watch(func(*raftstore.ReadTx) error { return nil }, schedstore.Services, schedstore.ServiceRuns, schedstore.Tasks)
	if err != nil {
		return false, err
	}
	defer events.Close()
	if done, err = w.send(nil); done || err != nil {
		return done, err
	}
	for {
		list, err := events.Next(w.stream.Context())
		if err != nil {
			return false, err
		}
		tasks, concerned := w.concern(list)
		if !concerned {
			continue
		}
		if !w.changes {
			tasks = nil
		}
		if done, err := w.send(tasks); done || err != nil {
			return done, err
		}
	}
}

// concern gives the ids of the service's tasks that changed, and whether anything
// of the service did.
func (w *serviceWatch) concern(events []raftstore.Event) (tasks map[string]bool, concerned bool) {
	tasks = map[string]bool{}
	for _, e := range events {
		if old, now, ok := schedstore.Services.Event(e); ok {
			concerned = concerned || cmp.Or(now.GetId(), old.GetId()) == w.id
		} else if old, now, ok := schedstore.ServiceRuns.Event(e); ok {
			concerned = concerned || cmp.Or(now.GetServiceId(), old.GetServiceId()) == w.id
		} else if old, now, ok := schedstore.Tasks.Event(e); ok && cmp.Or(now.GetServiceId(), old.GetServiceId()) == w.id {
			tasks[cmp.Or(now.GetId(), old.GetId())], concerned = true, true
		}
	}
	return tasks, concerned
}

// send sends those tasks as they are now, and the service; nil: all tasks.
func (w *serviceWatch) send(tasks map[string]bool) (removed bool, err error) {
	adds := tasks != nil
	p := &pages[*controlpb.TaskView]{}
	p.send = func(page []*controlpb.TaskView) error {
		err := w.stream.Send(&controlpb.WatchServiceResponse{Tasks: page, More: true, Changes: adds})
		adds = true
		return err
	}
	end := &controlpb.WatchServiceResponse{}
	err = w.server.c.Store.View(func(r *raftstore.ReadTx) error {
		svc, ok := schedstore.Services.Get(r, w.id)
		if end.Removed = !ok; end.Removed {
			return nil
		}
		end.Service = serviceView(r, svc, w.run)
		switch {
		case !w.changes: // in one message, as that caller expects it
			end.Tasks = taskViews(r, svc, "")
			return nil
		case tasks == nil:
			return eachTaskOf(r, svc, "", p.add)
		}
		of := specsOf(r, svc)
		for _, id := range slices.Sorted(maps.Keys(tasks)) {
			t, ok := schedstore.Tasks.Get(r, id)
			if !ok {
				end.Gone = append(end.Gone, id)
				continue
			}
			if err := p.add(taskView(r, svc, t, of(t))); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return false, err
	}
	if w.changes {
		end.Tasks, end.Changes = p.page, adds
	}
	for len(end.Gone) > maxGone {
		part := &controlpb.WatchServiceResponse{Gone: end.Gone[:maxGone], More: true, Changes: true}
		if err := w.stream.Send(part); err != nil {
			return false, err
		}
		end.Gone = end.Gone[maxGone:]
	}
	return end.Removed, w.stream.Send(end)
}
