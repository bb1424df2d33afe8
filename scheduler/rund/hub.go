package rund

import (
	"context"
	"sync"

	"google.golang.org/protobuf/proto"

	"github.com/redoubt-cluster/redoubt/scheduler/rund/rundpb"
)

// hub holds the last known state of every task and hands changes to watchers.
// A slow watcher gets only the newest state of each task, so it costs bounded
// memory.
type hub struct {
	mu    sync.Mutex
	tasks map[string]*rundpb.TaskActual // immutable once stored
	subs  map[*subscription]struct{}
}

type subscription struct {
	hub    *hub
	dirty  map[string]struct{} // guarded by hub.mu
	notify chan struct{}       // buffered 1
}

func newHub() *hub {
	return &hub{tasks: map[string]*rundpb.TaskActual{}, subs: map[*subscription]struct{}{}}
}

// set publishes a copy of a.
func (h *hub) set(a *rundpb.TaskActual) {
	a = proto.CloneOf(a)
	h.mu.Lock()
	defer h.mu.Unlock()
	h.tasks[a.GetTaskId()] = a
	h.touch(a.GetTaskId())
}

func (h *hub) remove(id string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	delete(h.tasks, id)
	h.touch(id)
}

func (h *hub) touch(id string) {
	for s := range h.subs {
		s.dirty[id] = struct{}{}
		select {
		case s.notify <- struct{}{}:
		default:
		}
	}
}

// get returns a task's present state, or nil.
func (h *hub) get(id string) *rundpb.TaskActual {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.tasks[id]
}

// all returns the present state.
func (h *hub) all() []*rundpb.TaskActual {
	h.mu.Lock()
	defer h.mu.Unlock()
	all := make([]*rundpb.TaskActual, 0, len(h.tasks))
	for _, a := range h.tasks {
		all = append(all, a)
	}
	return all
}

// subscribe returns the present state and what comes after it.
func (h *hub) subscribe() ([]*rundpb.TaskActual, *subscription) {
	h.mu.Lock()
	defer h.mu.Unlock()
	s := &subscription{h, map[string]struct{}{}, make(chan struct{}, 1)}
	h.subs[s] = struct{}{}
	all := make([]*rundpb.TaskActual, 0, len(h.tasks))
	for _, a := range h.tasks {
		all = append(all, a)
	}
	return all, s
}

func (s *subscription) close() {
	s.hub.mu.Lock()
	defer s.hub.mu.Unlock()
	delete(s.hub.subs, s)
}

// next waits for changes and returns them.
func (s *subscription) next(ctx context.Context) (changed []*rundpb.TaskActual, removed []string, err error) {
	select {
	case <-s.notify:
	case <-ctx.Done():
		return nil, nil, ctx.Err()
	}
	s.hub.mu.Lock()
	defer s.hub.mu.Unlock()
	for id := range s.dirty {
		if a := s.hub.tasks[id]; a != nil {
			changed = append(changed, a)
		} else {
			removed = append(removed, id)
		}
	}
	clear(s.dirty)
	return changed, removed, nil
}

// ended returns a channel that is closed when the task will write no more, or
// ctx ends.
func (h *hub) ended(ctx context.Context, id string) <-chan struct{} {
	done := make(chan struct{})
	all, sub := h.subscribe()
	over := func(as []*rundpb.TaskActual) bool {
		for _, a := range as {
			if a.GetTaskId() == id {
				return a.GetPhase() == rundpb.Phase_PHASE_EXITED || a.GetPhase() == rundpb.Phase_PHASE_FAILED
			}
		}
		return false
	}
	known := false
	for _, a := range all {
		known = known || a.GetTaskId() == id
	}
	if !known || over(all) {
		sub.close()
		close(done)
		return done
	}
	// Ends with ctx, which is the request's.
	go func() {
		defer close(done)
		defer sub.close()
		for {
			changed, removed, err := sub.next(ctx)
			if err != nil || over(changed) {
				return
			}
			for _, r := range removed {
				if r == id {
					return
				}
			}
		}
	}()
	return done
}
