package agenttest

import (
	"context"
	"errors"

	"github.com/redoubt-cluster/redoubt/scheduler/rund/rundpb"
)

// Watch reports all tasks, then every change.
func (r *Rund) Watch(ctx context.Context, f func(*rundpb.WatchResponse) error) error {
	w := &watcher{ready: make(chan struct{}, 1), gone: make(chan struct{})}
	r.mu.Lock()
	if r.down {
		r.mu.Unlock()
		return errors.New("connection refused")
	}
	all := &rundpb.WatchResponse{Complete: true}
	for _, t := range r.tasks {
		all.Tasks = append(all.Tasks, t)
	}
	r.watchers[w] = struct{}{}
	r.mu.Unlock()
	defer func() {
		r.mu.Lock()
		delete(r.watchers, w)
		r.mu.Unlock()
	}()
	if err := f(all); err != nil {
		return err
	}
	for {
		r.mu.Lock()
		queue := w.queue
		w.queue = nil
		r.mu.Unlock()
		for _, m := range queue {
			if err := f(m); err != nil {
				return err
			}
		}
		select {
		case <-w.ready:
		case <-w.gone:
			return errors.New("connection lost")
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// Logs passes what SetLogs set; following, it stays until ctx ends.
func (r *Rund) Logs(ctx context.Context, req *rundpb.LogsRequest, f func(*rundpb.LogsResponse) error) error {
	r.mu.Lock()
	lines := r.logs[req.TaskId]
	r.mu.Unlock()
	for _, l := range lines {
		if err := f(&rundpb.LogsResponse{At: 1, Data: []byte(l)}); err != nil {
			return err
		}
	}
	if req.Follow {
		<-ctx.Done()
		return ctx.Err()
	}
	return nil
}
