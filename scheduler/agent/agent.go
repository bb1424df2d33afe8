// Package agent is a node's side of scheduling: it holds one session with the
// managers, hears which tasks this node should have, sees that rund and netd
// make it so, and reports how far each task came.
//
// A task goes created → attached → running and back in reverse order, so that
// no container ever runs without its networks and no address is reused while a
// container holds it. One that is to end leaves the names and virtual addresses
// of its networks first (withdrawTime). Running is reported only of a task that rund says runs
// and netd says is attached. A task that ended is never started again: making
// a new one is the managers' decision.
//
// Everything is declared whole and again (type machine keeps what is
// known, and says what each side should be told), so any of rund, netd, the
// session or this process may go away at any moment:
//
//   - managers away: containers stay, netd and rund are still kept healed;
//   - rund or netd restarted: the whole desired state is declared anew;
//   - this process restarted: nothing is declared before a manager's first
//     complete set of assignments and rund's first complete report, so running
//     containers stay and keep their addresses.
//
// The agent keeps nothing on disk. It refuses new tasks while the node lacks a
// required feature and says which.
package agent

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"sync"
	"time"

	"github.com/redoubt-cluster/redoubt/mesh"
	"github.com/redoubt-cluster/redoubt/scheduler/schedulerpb"
	"github.com/redoubt-cluster/redoubt/scheduler/taskpb"
	"golang.org/x/sync/errgroup"
	"google.golang.org/grpc"
)

// Config binds an agent to its node. Dial, Executor, Network and Describe are
// required.
type Config struct {
	// Dial reaches any manager, authenticated both ways. It tries one; the
	// agent calls it again after a pause of its own. The closer ends what it
	// returned.
	Dial     func(context.Context) (grpc.ClientConnInterface, io.Closer, error)
	Executor Executor
	Network  Network
	// Overlay, if not nil, puts tasks on networks; without it they are rejected.
	// OverlayChanged tells that its States or Namespaces may be others.
	Overlay        Overlay
	OverlayChanged <-chan struct{}
	// Describe reports the node itself; the agent adds what rund and netd say
	// (runtime, features, loaded images).
	Describe func() *schedulerpb.NodeDescription
	// Refresh, if not nil, asks for the node to be looked at again at once: an
	// image was imported.
	Refresh <-chan struct{}
	// Described, if not nil, is told each description that was sent.
	Described func(*schedulerpb.NodeDescription)
	// AppliedIndex, on managers, is sent with heartbeats.
	AppliedIndex func() uint64
	// Managers, if not nil, is told the managers' addresses when they change,
	// to be dialled after a restart.
	Managers func(addresses []string)
	// Membership, if not nil, is told what the cluster wants of the node itself.
	Membership func(*schedulerpb.Membership)
	// Heard, if not nil, is called with each word of a manager, before that is acted
	// on. It returns at once.
	Heard func()
	// Denials, if not nil, is told which workload identities are revoked, all of
	// them.
	Denials func(*schedulerpb.Denials)
	// Trusts, if not nil, are the SHA-256 of the roots that the node trusts: they
	// are said when a session begins and when Retrusted tells that they are others.
	Trusts    func() [][]byte
	Retrusted <-chan struct{}
	// Mesh, if not nil, tells of this node's end of the tunnels and, with rotate,
	// begins to change its WireGuard key. It does not wait for that.
	Mesh func(rotate bool) (*schedulerpb.MeshState, error)
	// Check, if not nil, judges this node by controls, by their ids.
	Check func(ctx context.Context, controls []string) ([]*taskpb.CheckResult, error)
	// Identities, if not nil, is told which tasks this node has or is to have, when
	// that changed: all of them.
	Identities func([]*schedulerpb.Assignment)
	// Session, if not nil, is given the connection of a session that begins, and nil
	// when it ends.
	Session func(grpc.ClientConnInterface)
	// Delivery, if not nil, gets tasks their secrets and configs.
	Delivery *Delivery
	// Connected, if not nil, is told when a session begins and ends.
	Connected func(bool)
	Logger    *slog.Logger
}

// agent owns the goroutines that carry words between machine and the world.
// Each goroutine does one conversation, waits for its kick, asks the machine
// under mu what to say, and says it with mu free.
type agent struct {
	Config

	gen mesh.Generation // of declarations to rund

	mu        sync.Mutex // guards the following
	machine   *machine
	rundUp    bool // rund's Watch is running and complete
	redeclare bool // declare to rund even what it was told already
	resync    bool // the same for netd
	node      nodeFacts
	ports     []string                 // published ones that this node should answer on and does not
	away      *taskpb.Feature          // the helper that does not answer; nil: both do
	conn      grpc.ClientConnInterface // of the session; nil: there is none

	rundKick, netKick, overlayKick, reportKick, helloKick, probeKick, identityKick, fileKick kick
}

// nodeFacts is what probing found.
type nodeFacts struct {
	runtime  string
	features []*taskpb.Feature
	images   map[string]string
	storage  *taskpb.Storage
	volumes  []*taskpb.VolumeInstance
}

// Run serves until ctx ends and returns its error. Containers are left as they
// are.
func Run(ctx context.Context, c Config) error {
	if c.Dial == nil || c.Executor == nil || c.Network == nil || c.Describe == nil {
		return errors.New("agent: Dial, Executor, Network and Describe are required")
	}
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	a := &agent{
		Config:   c,
		machine:  newMachine(c.Network, c.Overlay != nil, c.Logger),
		rundKick: newKick(), netKick: newKick(), overlayKick: newKick(), reportKick: newKick(), helloKick: newKick(), probeKick: newKick(), identityKick: newKick(), fileKick: newKick(),
	}
	g, ctx := errgroup.WithContext(ctx)
	for _, work := range []func(context.Context) error{
		a.watchRund, a.declareRund, a.syncNetwork, a.checkNetwork, a.followOverlay, a.probe, a.sessions, a.tellIdentities, a.deliverFiles,
	} {
		g.Go(func() error { return work(ctx) })
	}
	return g.Wait()
}

// input lets f change the machine and wakes whoever may have something to say.
func (a *agent) input(f func(m *machine, now time.Time) error) error {
	a.mu.Lock()
	err := f(a.machine, time.Now())
	a.mu.Unlock()
	a.rundKick.now()
	a.netKick.now()
	a.overlayKick.now()
	a.reportKick.now()
	a.identityKick.now()
	a.fileKick.now()
	return err
}

// kick wakes one goroutine; kicks that nobody waited for merge into one.
type kick chan struct{}

func newKick() kick { return make(kick, 1) }

func (k kick) now() {
	select {
	case k <- struct{}{}:
	default:
	}
}

// wait returns at the next kick, after d when d is positive, or with ctx.
func (k kick) wait(ctx context.Context, d time.Duration) error {
	var after <-chan time.Time
	if d > 0 {
		t := time.NewTimer(d)
		defer t.Stop()
		after = t.C
	}
	select {
	case <-k:
		return nil
	case <-after:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}
