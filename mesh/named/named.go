// Package named answers the names that a node's containers ask for. It runs in
// a process of its own, redoubt-named, which has no capability and no file, and
// nothing worth stealing: what it reads is written by containers and by
// resolvers on the internet.
//
// # Use
//
// redoubtd declares, with a generation, which sandboxes there are, which networks
// each is on and what is on these (DeclareRequest in namedpb, over a unix socket
// that admits its user alone): everything, or the difference from the generation
// before. netd makes two sockets in each sandbox, 127.0.0.11:53 for UDP and TCP,
// and hands them over another unix socket (package hand). A sandbox is answered
// through its own sockets, so who asks is never in doubt.
//
// # What a sandbox is told
//
// Names of the networks it is on, and of no other. Where several have a name, the
// first of its networks does, for all types.
//
//	web                a service: its virtual addresses, or those of its ready tasks
//	tasks.web          the addresses of all ready tasks
//	3.web              the address of the task in slot 3, while it is ready
//	_http._tcp.web     SRV: the service's port and address
//	_http._tcp.tasks.web  SRV: one record for each ready task
//	aliases, names of single tasks, the sandbox's own hostname, localhost
//
// and PTR for the addresses of all of them. A service has its name alone: an
// alias or a task's name that is the same means nothing beside it. Letters may be
// of either case. Addresses begin with another one each time. A task that is not
// ready is told to nobody, in slots neither, and answers may be kept for a second
// (ttl): as long as anybody can hear of a task that was withdrawn. A name that
// exists without what was asked for is no error (NODATA), one that does not is
// NXDOMAIN; both come with the SOA that lets resolvers remember it, for a second.
// What does not fit in a datagram is cut, says so, and is whole over TCP.
//
// # What goes outside
//
// The rest is asked of the node's resolvers, for sandboxes of which a network is
// not internal. Never forwarded are names without a dot, tasks.NAME,
// _port._proto.NAME and NUMBER.SERVICE, as well as names that end in one of the
// sandbox's search domains and name something of the cluster before it: they are
// answered here, so no resolver outside learns of them or gets to answer for
// them. Nor are reverse names of the cluster's addresses. A resolver gets name, type
// and the bits RD, CD and DO; client subnets, cookies and all other options stay
// here. It is asked from a new port, with a random id and letters of random case,
// and over TCP where the answer is cut or something else answers. Nothing is
// cached, so nothing can be poisoned for longer than one answer, and one sandbox
// learns nothing from another's questions. The answer's claim to be validated (AD) is
// not passed on: the way to the resolver proves nothing.
//
// # What it bears
//
// Everything that is read is bounded (limits.go). A sandbox that asks too fast is
// read more slowly, and queries that it sends beyond that are lost in its own
// socket. One whose queries wait for a resolver that is silent has a number of
// them, and after that is refused, while names of the cluster are answered as
// before. Only the sandbox itself is answered.
//
// # Restarts
//
// After a restart of named there are neither names nor sockets. netd keeps the
// sockets open and hands them over again, redoubtd declares again; until then
// queries wait in the sockets, or for the declaration. After a restart of netd
// named tells it what it has, which goes on. After one of redoubtd the last
// declaration stands until the next.
package named

import (
	"context"
	"errors"
	"log/slog"
	"slices"
	"sync"
	"sync/atomic"

	"github.com/redoubt-cluster/redoubt/internal/ident"
	"github.com/redoubt-cluster/redoubt/mesh/named/namedpb"
)

// Server is the names of one node. Its methods may be used concurrently.
type Server struct {
	log *slog.Logger
	// ctx ends all boxes; Close ends it.
	ctx context.Context
	end context.CancelFunc

	view      atomic.Pointer[view]
	preferred atomic.Uint32 // index of the resolver that answered last
	waiting   chan struct{} // a slot for each query that waits
	conns     chan struct{} // a slot for each TCP connection
	count     struct{ answered, forwarded, refused, forged, held atomic.Uint64 }

	mu      sync.Mutex
	changed chan struct{}   // guarded by mu; closed and replaced with each declaration
	boxes   map[string]*box // guarded by mu, by task
	closed  bool            // guarded by mu
}

// New returns a Server that knows nothing yet. Close it.
func New(log *slog.Logger) *Server {
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	s := &Server{log: log, waiting: make(chan struct{}, maxWaiting), conns: make(chan struct{}, maxConns),
		changed: make(chan struct{}), boxes: map[string]*box{}}
	s.ctx, s.end = context.WithCancel(context.Background())
	s.view.Store(&view{})
	return s
}

// Close gives the sockets back and returns when nothing runs any more.
func (s *Server) Close() error {
	s.mu.Lock()
	boxes := s.boxes
	s.boxes, s.closed = map[string]*box{}, true
	s.mu.Unlock()
	s.end()
	for _, b := range boxes {
		b.close()
	}
	return nil
}

// Declare takes what sandboxes are told from now on, or nothing of it.
func (s *Server) Declare(req *namedpb.DeclareRequest) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	next, err := s.view.Load().next(req)
	if err != nil {
		return err
	}
	s.view.Store(next)
	close(s.changed)
	s.changed = make(chan struct{})
	return nil
}

// declared waits until the sandbox is, which may be in vain.
func (s *Server) declared(ctx context.Context, task string) bool {
	ctx, cancel := context.WithTimeout(ctx, declaredWithin)
	defer cancel()
	for {
		s.mu.Lock()
		there, changed := s.view.Load().sandboxes[task] != nil, s.changed
		s.mu.Unlock()
		if there {
			return true
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return false
		}
	}
}

var (
	errClosed  = errors.New("named is stopping")
	errTooMany = errors.New("too many sandboxes: no more sockets are taken")
	errTask    = errors.New("the task has no valid id")
)

// give takes over the sockets of a sandbox, instead of those it had.
func (s *Server) give(task string, p pair) error {
	if !ident.Valid(task) {
		p.close()
		return errTask
	}
	old := s.take(task)
	if old != nil {
		old.close()
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case s.closed:
		p.close()
		return errClosed
	case len(s.boxes) >= maxBoxes:
		p.close()
		return errTooMany
	}
	s.boxes[task] = s.newBox(task, p)
	return nil
}

// drop gives the sockets of a sandbox back.
func (s *Server) drop(task string) {
	if b := s.take(task); b != nil {
		b.close()
	}
}

func (s *Server) take(task string) *box {
	s.mu.Lock()
	defer s.mu.Unlock()
	b := s.boxes[task]
	delete(s.boxes, task)
	return b
}

func (s *Server) held() (out []*namedpb.Held) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for task, b := range s.boxes {
		out = append(out, &namedpb.Held{TaskId: task, Netns: b.netns})
	}
	return out
}

// State tells what is in force.
func (s *Server) State() *namedpb.StateResponse {
	v := s.view.Load()
	r := &namedpb.StateResponse{Generation: v.generation, Declared: uint32(len(v.sandboxes)), Names: uint64(v.names),
		Answered: s.count.answered.Load(), Forwarded: s.count.forwarded.Load(), Refused: s.count.refused.Load(), Forged: s.count.forged.Load(), HeldBack: s.count.held.Load()}
	for _, h := range s.held() {
		r.WithSockets = append(r.WithSockets, h.GetTaskId())
	}
	slices.Sort(r.WithSockets)
	return r
}
