// Package netd owns the network of a node's containers: one bridge, one
// interface per container, the rules that bind each to its own addresses, and
// published ports. Its process also holds the node's end of the mesh (package
// fabric) and the networks on it (package overlay). It is the only part of Redoubt that changes the kernel's
// network state, and runs in a process of its own, redoubt-netd, which holds
// CAP_NET_ADMIN and CAP_SYS_ADMIN and nothing worth stealing.
//
// # Use
//
// redoubtd sends the whole desired state with a generation, over a unix socket
// that admits its user alone (Request in netdpb). Apply compares it with the
// kernel's state and changes what differs: the same request may be sent any
// number of times and after any crash. An older generation is refused, so a
// late message cannot bring back what was taken away. What is wrong with one
// endpoint is reported for that endpoint, which is then not attached at all;
// the others are not held up. A state without a bridge address removes
// everything, as Cleanup does.
//
// # What containers may do
//
// A container opens connections to the outside, translated to the node's
// address, and is reached through the ports it publishes. Nothing else:
//
//   - Containers of one bridge do not reach each other; talking among tasks is
//     what overlay networks are for. A container may use a published port of
//     another one by a node's address, as anybody may.
//   - The node's own sockets are out of reach, by the bridge's address and by
//     every other, and ports 2377 and 7946 are so on all nodes. So are the ports that
//     managers were said to have instead: on every address, as a manager may
//     have several, or at the managers' alone where the port is a well-known
//     one (below 1024), which containers need elsewhere. Link-local addresses,
//     where clouds hand out the machine's credentials, need
//     netd.allow_link_local.
//   - Processes of the node reach containers by their published ports only.
//   - A container sends IPv4 and ARP from its own MAC and address. Anything else
//     is dropped where it enters the bridge: no IPv6 yet, no VLAN tags. The
//     bridge learns no MAC and the node asks no ARP, since netd knows where
//     everything is; so there is no cache to poison.
//   - A container has a bounded number of connections open that it began, and
//     begins a bounded number in a second (limits.go); more are dropped and
//     those that stand go on. So none fills the node's table of connections,
//     without which the node itself would reach nobody. Connections from
//     outside to published ports are not counted: whoever forges addresses
//     could use up such a bound with a few packets and shut the port, and the
//     kernel forgets half-open connections itself when its table is full.
//
// The rules stand in two tables named redoubt, families inet and bridge, which are
// replaced in one transaction, and in redoubt_flows, which counts and is replaced only
// when it is not what it should be. Other people's tables are neither read nor changed;
// what they drop stays dropped. A table that is changed or deleted by hand is put back,
// at the kernel's notice or after seconds at the latest, and shown by Probe. Where no
// netd is there to do so, IPsec policies of the kernel drop what the tables would have
// judged (kernel.Unjudged).
//
// net.ipv4.ip_forward is left alone. Where it is off, netd turns forwarding on
// for single interfaces and lets packets from them go to containers only, so
// that a node does not become a router between its other networks.
//
// # Published ports
//
// Destination translation, for packets from outside and for the node's own
// processes, 127.0.0.1 included. netd holds each published port with a socket
// that receives nothing, so that a conflict with a process of the node is an
// error with a name, on whichever side comes second, instead of traffic that
// silently goes elsewhere. Privileged ports cannot be held without a capability
// netd does not have: whether they are free is looked up when they are
// published, and processes that may bind them later must be known to the
// administrator.
//
// # Restarts
//
// The state in the kernel outlives the process: netd ends without touching it
// and adopts it at the next Apply. Should it start and find its bridge without
// its rules, it denies everything until then.
package netd

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"strings"
	"sync"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
	"google.golang.org/protobuf/proto"

	"github.com/redoubt-cluster/redoubt/internal/portname"
	"github.com/redoubt-cluster/redoubt/mesh/netd/fabric"
	"github.com/redoubt-cluster/redoubt/mesh/netd/ingress"
	"github.com/redoubt-cluster/redoubt/mesh/netd/internal/hold"
	"github.com/redoubt-cluster/redoubt/mesh/netd/internal/kernel"
	"github.com/redoubt-cluster/redoubt/mesh/netd/netdpb"
	"github.com/redoubt-cluster/redoubt/mesh/netd/overlay"
)

// Options say what a Node works on.
type Options struct {
	// RunDir is the directory that holds netns/, where rund pins sandboxes.
	RunDir string
	Config Config
	Logger *slog.Logger
	// Netns is the node's network namespace; nil: the calling thread's.
	Netns *os.File
	// Fabric is the node's end of the mesh, which Serve runs; nil: none.
	Fabric *fabric.Fabric
	// Overlays are the networks on it, which Serve runs as well; nil: none.
	Overlays *overlay.Overlays
	// Ingress is the node's part of the routing mesh, which Serve runs as well;
	// nil: none.
	Ingress *ingress.Ingress
	// Named is the path of named's socket, to which Serve hands the sockets of
	// sandboxes on networks; empty: there is none.
	Named string
}

// Node is the network of one node. Its methods may be used concurrently; they
// take turns.
type Node struct {
	runDir   string
	config   Config
	mayReach []portname.Port   // of the configuration
	fabric   *fabric.Fabric    // nil: the node has no mesh
	overlays *overlay.Overlays // nil: nor networks on it
	ingress  *ingress.Ingress  // nil: nor a part in the routing mesh
	handing  *handing          // nil: nor names on those
	parts    parts
	note     note // of redoubtd's, for its next process
	log      *slog.Logger
	ns       *os.File

	mu         sync.Mutex        // guards the following, and the kernel's state
	nf         *kernel.Netfilter // of the node's namespace; nil: not opened yet
	generation uint64
	sum        [sha256.Size]byte // of the request with that generation
	plan       plan
	refused    map[string]error // by task: never tried
	bad        map[string]error // by task: tried in vain
	order      []string         // of tasks, as in the request
	attached   []endpoint
	stale      map[netip.Addr]bool // addresses whose connections are to be forgotten
	holds      holds
	probed     bool // all that is required is there
	repairs    uint64
	meddled    kernel.Meddling
	policies   kernel.Policies
	strayed    uint64 // packets counted when last looked

	known   bool     // opened and guarded were read from the kernel
	opened  []string // interfaces on which netd turned forwarding on
	guarded bool     // there is a table that guards them
	// brNetfilter is how the ports of the bridge are set, mtu what they have.
	brNetfilter bool
	mtu         int
	committed   *ruleset // what the kernel was last given; nil: not known
	print       prints
	gen         uint32 // ruleset generation at which print was true
	bounds      flowBounds
	countsFlows bool // the kernel can

	fault func(step string) error // set by tests only
}

// book is where all published ports of the node are.
func (o Options) book() *hold.Book {
	if o.Ingress != nil {
		return o.Ingress.Ports()
	}
	return hold.NewBook()
}

// New returns the network of the node; nothing is changed yet. Close it.
func New(o Options) (*Node, error) {
	if o.RunDir == "" {
		return nil, errors.New("netd: the run directory is not given")
	}
	mayReach, err := o.Config.mayReach()
	if err != nil {
		return nil, err
	}
	ns := o.Netns
	if ns == nil {
		var err error
		if ns, err = kernel.OpenOwn(); err != nil {
			return nil, fmt.Errorf("netd: open the node's network namespace: %w", err)
		}
	} else {
		fd, err := unix.FcntlInt(ns.Fd(), unix.F_DUPFD_CLOEXEC, 0)
		if err != nil {
			return nil, err
		}
		ns = os.NewFile(uintptr(fd), ns.Name())
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	n := &Node{runDir: o.RunDir, config: o.Config, mayReach: mayReach, fabric: o.Fabric, overlays: o.Overlays, ingress: o.Ingress, log: o.Logger, ns: ns, holds: holds{o.book(), map[hold.Port]bool{}}, stale: map[netip.Addr]bool{},
		bounds: flowBounds{open: maxFlows, rate: maxFlowRate, burst: maxFlowBurst}}
	if o.Named != "" && o.Overlays != nil {
		n.handing = newHanding(n, o.Named)
	}
	return n, nil
}

// Close gives back the descriptors, published ports among them. The kernel's
// state stays.
func (n *Node) Close() error {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.holds.keep(nil)
	if n.nf != nil {
		n.nf.Close()
		n.nf = nil
	}
	return n.ns.Close()
}

// onNode runs fn on a thread in the node's namespace, where n.nf is open. n.mu is
// held.
func (n *Node) onNode(fn func(h *netlink.Handle) error) error {
	return kernel.WithRoutes(n.ns, func(h *netlink.Handle) (err error) {
		if n.nf == nil {
			if n.nf, err = kernel.OpenNetfilter(); err != nil {
				return err
			}
		}
		return fn(h)
	}, unix.NETLINK_NETFILTER)
}

// Apply makes the node's network as the request says. The error is one of the
// whole request, of which then nothing or only a part is in force; the same
// request may be sent again.
func (n *Node) Apply(ctx context.Context, req *netdpb.ApplyRequest) (*netdpb.ApplyResponse, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	sum, err := n.guard(req)
	if err != nil {
		return nil, err
	}
	p, refused, err := parse(req, n.isAttached)
	if err != nil {
		return nil, err
	}
	if err := n.require(); err != nil {
		return nil, err
	}
	if req.GetPools() == nil {
		p.pools = n.plan.pools
	}
	if req.GetReach() == nil {
		p.reach = n.plan.reach
	}
	// From here on the request stands, whether all of it succeeds or not.
	n.generation, n.sum, n.plan, n.refused, n.order = req.GetGeneration(), sum, p, refused, nil
	for _, e := range req.GetEndpoints() {
		n.order = append(n.order, e.GetTaskId())
	}
	bad, changes, err := n.reconcile(ctx, p, true)
	n.bad = bad
	if err != nil {
		n.log.Error("network state not applied", "generation", n.generation, "err", err)
		return nil, err
	}
	if len(changes) > 0 {
		n.log.Info("network state applied", "generation", n.generation, "endpoints", len(n.attached), "changes", len(changes))
	}
	return &netdpb.ApplyResponse{Results: n.results()}, nil
}

// guard refuses what is older than the state in force, or a second content of
// the same generation.
func (n *Node) guard(req *netdpb.ApplyRequest) (sum [sha256.Size]byte, err error) {
	b, err := proto.MarshalOptions{Deterministic: true}.Marshal(req)
	if err != nil {
		return sum, err
	}
	sum = sha256.Sum256(b)
	switch g := req.GetGeneration(); {
	case g == 0:
		return sum, errors.New("generation is missing: it starts at 1")
	case g < n.generation:
		return sum, fmt.Errorf("generation %d is older than %d, which is in force", g, n.generation)
	case g == n.generation && sum != n.sum:
		return sum, fmt.Errorf("generation %d is in force with another content: use a higher one", g)
	}
	return sum, nil
}

func (n *Node) isAttached(task string) bool {
	for _, e := range n.attached {
		if e.task == task {
			return true
		}
	}
	return false
}

// require fails unless the kernel has what Apply needs.
func (n *Node) require() error {
	if n.probed {
		return nil
	}
	var missing []string
	for _, f := range n.probe() {
		if f.GetName() == featureFlows {
			n.countsFlows = f.GetPresent()
			if !n.countsFlows {
				n.log.Warn("connections of containers are not bounded", "err", f.GetDetail())
			}
		}
		if f.GetRequired() && !f.GetPresent() {
			missing = append(missing, f.GetName()+" ("+f.GetDetail()+")")
		}
	}
	if len(missing) > 0 {
		return fmt.Errorf("this kernel lacks %s: load the modules or use a kernel that has them", strings.Join(missing, ", "))
	}
	n.probed = true
	return nil
}

func (n *Node) results() []*netdpb.EndpointResult {
	var out []*netdpb.EndpointResult
	for _, task := range n.order {
		r := &netdpb.EndpointResult{TaskId: task}
		switch {
		case n.refused[task] != nil:
			r.Error = n.refused[task].Error()
		case n.bad[task] != nil:
			r.Error = n.bad[task].Error()
		case !n.isAttached(task):
			r.Error = "not attached yet"
		}
		out = append(out, r)
	}
	return out
}

// State tells what is in force.
func (n *Node) State() *netdpb.StateResponse {
	n.mu.Lock()
	defer n.mu.Unlock()
	r := &netdpb.StateResponse{Generation: n.generation, Endpoints: n.results(), Repairs: n.repairs, RulesMeddled: n.meddling().Times, Strayed: n.strayedTold()}
	if f := n.rulesFeature(time.Now()); !f.GetPresent() {
		r.RulesChanged = f.GetDetail()
	}
	return r
}

// Probe looks what the kernel can do. It leaves nothing behind.
func (n *Node) Probe() []*netdpb.Feature {
	n.mu.Lock()
	defer n.mu.Unlock()
	all := append(n.probe(), n.rulesFeature(time.Now()))
	if n.fabric != nil {
		all = append(all, n.fabric.Probe())
	}
	return all
}

// Cleanup deletes everything netd owns in the network namespace, which nil
// takes to be the calling thread's: containers lose their network. It serves
// those who take a node out of use, while no netd runs.
func Cleanup(ns *os.File) error {
	if ns == nil {
		var err error
		if ns, err = kernel.OpenOwn(); err != nil {
			return err
		}
		defer ns.Close()
	}
	return kernel.WithRoutes(ns, func(h *netlink.Handle) error {
		nf, err := kernel.OpenNetfilter()
		if err != nil {
			return err
		}
		defer nf.Close()
		return removeOwned(h, nf)
	}, unix.NETLINK_NETFILTER)
}

var errInjected = errors.New("injected")

// step is where tests interrupt.
func (n *Node) step(name string) error {
	if n.fault == nil {
		return nil
	}
	return n.fault(name)
}
