package scheduler

import (
	"time"

	"github.com/redoubt-cluster/redoubt/raftstore"
	"github.com/redoubt-cluster/redoubt/scheduler/orchestrator"
	"github.com/redoubt-cluster/redoubt/scheduler/schedulerpb"
	"github.com/redoubt-cluster/redoubt/scheduler/store"
)

// uneven is what the loop knows of services whose tasks may be moved. Moves are made one
// in a plan, so that the next is judged by where that one went, and few at a time.
type uneven struct {
	// services are looked at for a task that would better be elsewhere; blocked are those
	// of them that wait until others have moved.
	services, blocked map[string]bool
	// moving are tasks that make way for others of their slot.
	moving map[string]bool
	// held are services none of whose tasks is moved, as the one in its place would wait:
	// by id, for which others, by name.
	held map[string][]string
	// moved: this plan has its move. searches counts those of this plan.
	moved    bool
	searches int
}

func newUneven() uneven {
	return uneven{services: map[string]bool{}, blocked: map[string]bool{}, moving: map[string]bool{}, held: map[string][]string{}}
}

// levels notes that a service's tasks are to be moved, as somebody asked for it, or may
// be without.
func (l *loop) levels(s *schedulerpb.Service) {
	if s.GetRebalanceStatus().GetState() == store.Moving || s.GetSpec().GetRebalance().GetAutomatic() {
		l.uneven.services[s.GetId()] = true
	}
}

// seek lets a service ask which of its tasks is to be moved. What it returns is called
// when the service was planned.
func (l *loop) seek(r raftstore.Reader, in *orchestrator.Input, now time.Time) (done func()) {
	u := &l.uneven
	called, found := false, false
	delete(u.held, in.ServiceID)
	switch {
	case in.Service == nil:
		delete(u.services, in.ServiceID)
	case !u.services[in.ServiceID]:
	case l.holds(r, in):
	case u.moved || u.searches >= maxSearches || len(u.moving) >= maxMoving:
		u.blocked[in.ServiceID] = true
	default:
		in.Surplus = func() (string, string, bool) {
			called = true
			u.searches++
			s, ok := l.cluster.Surplus(in.Request, now)
			found = ok
			u.moved = u.moved || ok
			return s.From, s.Why, ok
		}
	}
	return func() {
		if called && !found {
			delete(u.services, in.ServiceID) // until there is another node, or somebody asks
		}
	}
}

// holds reports whether a task in the place of another would wait for what its service
// depends on: then none is moved until that has come.
func (l *loop) holds(r raftstore.Reader, in *orchestrator.Input) bool {
	names := store.Awaited(r, in.Service, in.Request.DependsOn)
	if len(names) > 0 {
		l.uneven.held[in.ServiceID] = names
	}
	return len(names) > 0
}

// unblock has services looked at that wait until fewer tasks move.
func (l *loop) unblock() {
	u := &l.uneven
	if len(u.moving) >= maxMoving {
		return
	}
	n := 0
	for id := range u.blocked {
		if n++; n > maxSearches {
			return
		}
		delete(u.blocked, id)
		if l.services[id] != nil {
			l.service(id)
		}
	}
}
