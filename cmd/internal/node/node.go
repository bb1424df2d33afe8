// Package node is redoubtd: the composition root, the only place that knows all
// rooms. It takes a node through its life and binds keyd's keys to the store,
// the store to the servers, and the agent to rund and netd.
//
//	empty ── init, join ──▶ worker
//	                 └────▶ locked manager ──▶ manager
//
// A member that the cluster removed is told so, gives up what it had of it, and
// is empty again.
//
// A node's state is a function that serves until the state ends and names the
// next one (empty, worker, manager). What must be given up at the end of a state
// is given up by its function returning: nothing of one state is reachable from
// the next. A manager that loses its keyd ends the process instead, since that
// is the surest way to forget the keys it was lent; the supervisor starts it
// again, locked.
//
// Containers belong to none of this and run on.
package node

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"

	"golang.org/x/sync/errgroup"

	"github.com/redoubt-cluster/redoubt/autolock/keydclient"
	"github.com/redoubt-cluster/redoubt/cmd/internal/control/apierr"
	"github.com/redoubt-cluster/redoubt/cmd/internal/control/controlpb"
	"github.com/redoubt-cluster/redoubt/internal/daemon"
	"github.com/redoubt-cluster/redoubt/internal/heap"
	"github.com/redoubt-cluster/redoubt/internal/wire"
	"github.com/redoubt-cluster/redoubt/pki"
	"github.com/redoubt-cluster/redoubt/pki/pkipb"
	"github.com/redoubt-cluster/redoubt/scheduler/agent/executor"
)

// Node is one redoubtd.
type Node struct {
	cfg  Config
	env  daemon.Env
	log  *slog.Logger
	disk disk
	keyd *keydclient.Client
	rund *executor.Rund
	netd *wire.Client
	// named tells containers names.
	named *wire.Client
	// mesh is there while this node is a member.
	mesh atomic.Pointer[meshSide]

	// approval is the fingerprint of a join that waits for an operator; nil: none does.
	approval atomic.Pointer[string]

	// refresh asks the agent to look at the node again.
	refresh chan struct{}
	// reported is what managers were told of the node.
	reported reported
	// requests carries init, join and leave from the local socket to the state
	// that can serve them.
	requests chan request
	// told is how the agent and the renewer hand on that a manager said this
	// node was removed: the id it had then.
	told chan string
	// issuer, promote and roleChanged carry what the cluster said about this node
	// to who follows it: the issuing CA in force, and its role.
	issuer               chan []byte
	roots                chan *pkipb.Roots
	renewed              chan struct{} // the certificate, because of its issuer
	retrusted            chan struct{} // to the agent: the roots are others
	promote, roleChanged chan struct{}

	// denials are the workload identities that are revoked.
	denials pki.Denials
	// boot is shown on the lock protocol while this node is a manager.
	boot atomic.Pointer[pki.Credentials]

	// notReleased is why other managers did not open this one; nil where nobody was asked.
	notReleased atomic.Pointer[string]

	// incarnation of the cluster, while its store is open.
	incarnation atomic.Uint64

	// leafMu is held while the manager leaf is sealed and kept.
	leafMu sync.Mutex

	mu   sync.Mutex // guards what follows
	self *member    // nil while in no cluster
	st   selfStatus
	// live is the running manager or worker, for the local API; nil in between.
	live liveState
}

// liveState is what the local API asks of a running state.
type liveState interface {
	// fill completes a copy of the status.
	fill(*selfStatus)
}

// request is an operator's wish that changes the node's state. The state that
// takes it answers exactly once.
type request struct {
	do     any // *controlpb.InitRequest, *joinRequest or *controlpb.LeaveRequest
	answer chan<- answer
}

type answer struct {
	self member
	err  error
}

// state serves one state of the node and returns the next; an error ends the
// process.
type state func(ctx context.Context) (state, error)

// Run serves until ctx ends.
func Run(ctx context.Context, cfg Config, env daemon.Env) error {
	rund, err := executor.New(filepath.Join(env.RunDir, "rund.sock"))
	if err != nil {
		return err
	}
	defer rund.Close()
	n := &Node{
		cfg: cfg, env: env, log: env.Log,
		disk:     disk{filepath.Join(env.DataDir, "control")},
		keyd:     keydclient.New(filepath.Join(env.RunDir, "keyd.sock")),
		rund:     rund,
		netd:     wire.NewClient(filepath.Join(env.RunDir, "netd.sock")),
		named:    wire.NewClient(filepath.Join(env.RunDir, "named.sock")),
		refresh:  make(chan struct{}, 1),
		requests: make(chan request),
		told:     make(chan string, 1),
		issuer:   make(chan []byte, 1),
		roots:    make(chan *pkipb.Roots, 1), renewed: make(chan struct{}, 1), retrusted: make(chan struct{}, 1),
		promote: make(chan struct{}, 1), roleChanged: make(chan struct{}, 1),
	}
	defer n.keyd.Close()
	defer n.netd.Close()
	defer n.named.Close()
	first := n.first(ctx)
	g, ctx := errgroup.WithContext(ctx)
	asRoot, asUsers := newWithin(), newWithin()
	g.Go(func() error { return n.serveLocal(ctx, n.env.Listeners["api"], asRoot) })
	g.Go(func() error { return n.serveUsers(ctx, n.env.Listeners["users"], asUsers) })
	g.Go(func() error { return n.serveDocker(ctx, n.env.Listeners["docker"], asRoot, asUsers) })
	g.Go(func() error { return n.serveHTTP(ctx, n.env.Listeners["metrics"]) })
	g.Go(func() error { return ended(ctx, heap.Keep(ctx)) })
	g.Go(func() error {
		for s := first; ; {
			next, err := s(ctx)
			if err != nil {
				return err
			}
			s = next
		}
	})
	return g.Wait()
}

// first is the state that the disk says this node is in.
func (n *Node) first(ctx context.Context) state {
	if err := n.disk.migrate(); err != nil { // they are read as they are
		n.log.Warn("files of the first release were not given their header yet", "err", err)
	}
	m, err := n.disk.loadMember()
	if err != nil {
		return n.broken(err)
	}
	n.become(m)
	if r, err := n.disk.loadRemoval(); err == nil && r != nil && (r.Running || m != nil && r.NodeID == m.NodeID) {
		return n.removed // cut short
	}
	if m, err = n.mendRole(ctx, m); err != nil {
		return n.broken(err)
	}
	return n.stateOf(m)
}

// broken is the state of a node whose files are damaged: it says so and can
// only be made to leave.
func (n *Node) broken(cause error) state {
	return func(ctx context.Context) (state, error) {
		var left *request
		if err := n.serveBroken(ctx, cause, &left); !errors.Is(err, errLeaving) || ctx.Err() != nil {
			return nil, err
		}
		n.abandonTasks(ctx)
		return n.leave(ctx, left)
	}
}

func (n *Node) serveBroken(ctx context.Context, cause error, left **request) error {
	if errors.Is(cause, fs.ErrPermission) { // of a copy that was put back by root
		cause = fmt.Errorf("%w (its files must be user %d's: chown -R what is in its directory, and restart)", cause, os.Geteuid())
	}
	n.log.Error("this node cannot start", "err", cause)
	n.setPhase(controlpb.NodePhase_NODE_PHASE_BROKEN, nil, "%v", cause)
	return n.serveRequests(ctx, apierr.State("restore the file, or `redoubt leave --force` and join again", "this node cannot start: %v", cause), left, nil)
}

func (n *Node) stateOf(m *member) state {
	switch {
	case m == nil:
		return n.empty
	case m.Manager:
		return n.manager
	default:
		return n.worker
	}
}

// become records who this node is now.
func (n *Node) become(m *member) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.self, n.live = m, nil
	n.st = selfStatus{manager: m != nil && m.Manager}
}

// who returns a copy of the membership; zero where there is none.
func (n *Node) who() member {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.self == nil {
		return member{}
	}
	return *n.self
}

// remember changes the membership file and what who returns.
func (n *Node) remember(change func(*member)) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.self == nil {
		return errors.New("this node is in no cluster")
	}
	next := *n.self
	change(&next)
	if err := n.disk.saveMember(&next); err != nil {
		return err
	}
	n.self = &next
	return nil
}

func (n *Node) setPhase(p controlpb.NodePhase, live liveState, format string, args ...any) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.st.phase != p {
		n.log.Info("phase", "phase", p.String(), "message", fmt.Sprintf(format, args...))
	}
	n.st.phase, n.st.message, n.live = p, fmt.Sprintf(format, args...), live
}

func (n *Node) setSession(up bool) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.st.session = up
	if up {
		n.st.trouble = ""
	}
}

// setTrouble keeps why there is no session with a manager.
func (n *Node) setTrouble(err error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.st.trouble = err.Error()
}

func (n *Node) status() selfStatus {
	n.mu.Lock()
	s, live := n.st, n.live
	n.mu.Unlock()
	if s.trouble != "" && !s.session {
		s.message = strings.TrimPrefix(s.message+"; no session with a manager: "+s.trouble, "; ")
	}
	if live != nil {
		live.fill(&s)
	}
	return s
}

// ask hands a request to the current state and waits for its answer.
func (n *Node) ask(ctx context.Context, do any) (member, error) {
	answers := make(chan answer, 1)
	select {
	case n.requests <- request{do, answers}:
	case <-ctx.Done():
		return member{}, ctx.Err()
	}
	select {
	case a := <-answers:
		return a.self, a.err
	case <-ctx.Done():
		return member{}, ctx.Err()
	}
}
