// Package ingress is the data plane of the routing mesh on one node: it leads
// clients of a published port to a task of the service, wherever that runs, and
// its answers back, with the client's address as it is. It is part of
// redoubt-netd.
//
// # The way of a packet
//
//	client ── entry node ──┬── net-ingress ── task of this node
//	                       └── net-ingress ═ VXLAN in the mesh ═ net-ingress ── task of another
//
// A node that is an entry translates the destination of what comes for a
// published port of one of its addresses, to the address that a task has for this
// alone. All such addresses are of one subnet, and lie beyond one namespace, in
// which all ingress networks of the node end: nothing of the host is in it. There
// a packet finds its task, behind a veth pair, or the node of its task, behind
// the service's own VXLAN network.
//
// Answers go back to the entry node that the flow came from, as it alone can
// translate them back. The node of the task has noted it in a mark on the
// connection: the upper half is the service, which is a routing table, the lower
// half the entry node, whose MAC a hook at the exit of the VXLAN device writes
// into the frame. So it is the same work with one entry node or a thousand.
// Inside the sandbox a rule sends what comes from the task's ingress address to
// its ingress interface, and datagrams are led to the address from which programs
// answer them (sandbox.go).
//
// # What passes
//
// Before connections are looked at, everything must come with a source and a MAC
// that belong to where it came from. A node that has tasks of a service sends from
// their addresses alone, and only answers. An entry node sends for its clients,
// whose addresses nobody can vouch for but it; it may open flows to published
// target ports of the service, and to nothing else. A task opens no flow here.
// Before any of this, the mesh lets only nodes that share the service's network
// send into it: Admissions, as package fabric has them.
//
// The mesh address is no address to be reached at. Ports are held by sockets of
// this process: a port that a program of the node listens on is an error of that
// port, also where the program came later, and the port is then not published. A
// port that nobody serves is refused at once.
//
// Clients, and entry nodes on the node of the task, have a bounded number of
// connections (bounds.go). Where the entry node's table is not in force, nothing
// passes (unjudged.go).
//
// # State
//
// A declaration is the whole or a difference, and told to the kernel as what
// differs. What somebody changes is put back at the kernel's notice. It outlives
// the process: the next one finds connections with their marks, and the numbers
// they stand for in the table that it replaces (marks.go).
//
// Both families of addresses, where the cluster gives tasks one of each. The node
// must forward from its uplinks: netd's own bridge sees to that for IPv4, and for
// IPv6 this package does, which then keeps it from routing anything else
// (routing.go).
package ingress

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"sync"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/redoubt-cluster/redoubt/mesh/netd/fabric"
	"github.com/redoubt-cluster/redoubt/mesh/netd/internal/hold"
	"github.com/redoubt-cluster/redoubt/mesh/netd/internal/kernel"
	"github.com/redoubt-cluster/redoubt/mesh/netd/internal/pools"
	"github.com/redoubt-cluster/redoubt/mesh/netd/netdpb"
)

// A Mesh carries what goes to other nodes.
type Mesh interface {
	// Link is the interface, which need not be there yet.
	Link() (name string, mtu int, addr netip.Addr)
	// AdmitIngress says what other nodes may send, all of it each time.
	AdmitIngress(context.Context, []fabric.Admission) error
	// AdmitIngressMore changes what that said.
	AdmitIngressMore(_ context.Context, remove, add []fabric.Admission) error
}

// Options say what an Ingress works on.
type Options struct {
	// RunDir is the directory that holds netns/, where rund pins namespaces.
	RunDir string
	Logger *slog.Logger
	// Netns is the node's network namespace; nil: the calling thread's.
	Netns *os.File
	Mesh  Mesh
}

// Ingress is one node's part of the routing mesh. Its methods may be used
// concurrently; they take turns.
type Ingress struct {
	log    *slog.Logger
	runDir string
	ns     *os.File
	mesh   Mesh
	ports  *hold.Book

	mu     sync.Mutex // guards the following, and the kernel's state
	plan   *plan
	sum    [sha256.Size]byte
	closed bool

	held      map[hold.Port]bool // what we have in the book
	published publication
	admitted  *plan             // whose nodes the mesh was told; nil: perhaps none
	nf        *kernel.Netfilter // of the node's namespace; nil: not opened yet
	outer     table
	// Whether the node routes IPv6 for us alone; known: that was looked at.
	guarded, guardKnown bool
	// Networks that the node is on, as they were when all was looked at last.
	lans  []pools.LAN
	notes []string
	// Of the namespace that identity is of, while it is.
	identity kernel.Identity
	known    bool
	inside   *kernel.Netfilter // kept: see there
	inner    table
	marks    *marks
	links    map[string]int // that were there, by name
	have     pathParts      // nil: not known, and links are looked for
	ways     memory[paths]
	there    map[string]netlink.Link // by name, while have is known
	entered  bool                    // the way in is open, as it was left
	attached map[string]attached     // by task
	swept    time.Time               // when all sandboxes were looked at
	departed map[netip.Addr]departure
	// Connections that an earlier process left were looked through, in each namespace.
	looked, lookedInside bool

	repairs  uint64
	meddled  kernel.Meddling
	policies kernel.Policies
	degraded error
	bad      []*netdpb.IngressResult
}

// attached is a task's interface as it was made.
type attached struct {
	endpoint endpoint
	service  *service
	subnets  [2]netip.Prefix
	link     int
	mtu      int
}

// New returns the node's part in the routing mesh; nothing is changed yet. Close
// it.
func New(o Options) (*Ingress, error) {
	if o.RunDir == "" || o.Mesh == nil {
		return nil, errors.New("ingress: the run directory or the mesh is not given")
	}
	ns, err := o.Netns, error(nil)
	if ns == nil {
		ns, err = kernel.OpenOwn()
	} else {
		var fd int
		if fd, err = unix.FcntlInt(ns.Fd(), unix.F_DUPFD_CLOEXEC, 0); err == nil {
			ns = os.NewFile(uintptr(fd), ns.Name())
		}
	}
	if err != nil {
		return nil, fmt.Errorf("ingress: open the node's network namespace: %w", err)
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	i := &Ingress{log: o.Logger, runDir: o.RunDir, ns: ns, mesh: o.Mesh, ports: hold.NewBook(), plan: emptyPlan(), held: map[hold.Port]bool{}, departed: map[netip.Addr]departure{}}
	i.forget()
	if err := kernel.InNetns(ns, func() error { i.plan.kernel.shortens = shortens(); return nil }); err != nil {
		ns.Close()
		return nil, fmt.Errorf("ingress: %w", err)
	}
	return i, nil
}

// Ports is the book of the node's published ports, for who publishes others.
func (i *Ingress) Ports() *hold.Book { return i.ports }

// Close gives back the descriptors. The kernel's state stays.
func (i *Ingress) Close() error {
	i.mu.Lock()
	defer i.mu.Unlock()
	if i.closed {
		return nil
	}
	i.closed = true
	for p := range i.held {
		i.release(p)
	}
	i.forget()
	if i.nf != nil {
		i.nf.Close()
	}
	return i.ns.Close()
}

// forget drops what is known of the namespace: it is another one.
func (i *Ingress) forget() {
	if i.inside != nil {
		i.inside.Close()
	}
	i.inside = nil
	i.known, i.lookedInside, i.inner, i.have, i.links, i.attached, i.marks = false, false, table{alone: true}, nil, nil, map[string]attached{}, newMarks()
	i.ways, i.there, i.entered = memory[paths]{}, nil, false
}

// Declare makes the node's part what the request says. The error is one of the
// whole request; what is wrong with a port or a task is in the response. The same
// request may be sent again.
func (i *Ingress) Declare(ctx context.Context, req *netdpb.IngressRequest) (*netdpb.IngressResponse, error) {
	i.mu.Lock()
	defer i.mu.Unlock()
	if i.closed {
		return nil, errors.New("netd is stopping")
	}
	sum, again, err := i.guard(req)
	if err != nil {
		return nil, err
	}
	before := i.plan
	if !again {
		p, err := i.plan.merge(req)
		if err != nil {
			return nil, err
		}
		// From here on the declaration stands, whether all of it succeeds or not.
		i.plan, i.sum = p, sum
	}
	remembered := i.have != nil
	if _, err = i.reconcile(ctx, before); err != nil && remembered && ctx.Err() == nil {
		// Perhaps something is not as it was left, and nobody has looked yet.
		i.have = nil
		_, err = i.reconcile(ctx, before)
	}
	i.degraded = err
	if err != nil {
		i.log.Error("ingress not declared", "generation", i.plan.generation, "err", err)
		return nil, err
	}
	return &netdpb.IngressResponse{Results: i.bad, Notes: i.notes}, nil
}

// State tells what is in force.
func (i *Ingress) State() *netdpb.IngressStateResponse {
	i.mu.Lock()
	defer i.mu.Unlock()
	r := &netdpb.IngressStateResponse{Generation: i.plan.generation, Repairs: i.repairs, Entry: i.answers(), Results: i.bad, Notes: i.notes,
		Services: uint32(len(i.plan.services)), Dropped: map[string]uint64{}}
	if i.degraded != nil {
		r.Error = i.degraded.Error()
	}
	for _, s := range i.plan.services {
		for _, e := range s.endpoints {
			if e.isLocal() {
				r.LocalEndpoints++
			} else {
				r.RemoteEndpoints++
			}
		}
	}
	if i.closed || i.plan.generation == 0 {
		return r
	}
	add := func(nf *kernel.Netfilter, t *table) {
		if t.have != nil {
			for name, n := range t.counters(nf, t.have.tables[0]) {
				r.Dropped[name] += n
			}
		}
	}
	add(i.nf, &i.outer)
	add(i.inside, &i.inner)
	return r
}

// open opens the namespace of the ingress networks.
func (i *Ingress) open() (*os.File, error) {
	return kernel.OpenPinned(i.runDir, Netns, theNetns, i.ns)
}

// Cleanup deletes everything of ingress in the node's network namespace, which nil
// takes to be the calling thread's, and in that of the ingress networks, if one is
// pinned below the run directory. It serves those who take a node out of use,
// while no netd runs.
func Cleanup(runDir string, ns *os.File) error {
	if ns == nil {
		var err error
		if ns, err = kernel.OpenOwn(); err != nil {
			return err
		}
		defer ns.Close()
	}
	err := kernel.WithRoutes(ns, func(h *netlink.Handle) error {
		guarded, err := hasGuard()
		if err == nil && guarded {
			err = routeNoIPv6()
		}
		return kernel.OneLine(err, removeEntrance(h), removeTables(outsideTables...), allowUnjudged())
	}, unix.NETLINK_NETFILTER)
	in, e := kernel.OpenPinned(runDir, Netns, theNetns, ns)
	if e != nil {
		return err // there is none
	}
	defer in.Close()
	return kernel.OneLine(err, empty(in))
}

// empty takes all links out of the namespace, then what guards it.
func empty(ns *os.File) error {
	return kernel.WithRoutes(ns, func(in *netlink.Handle) error {
		there, err := listLinks(in)
		for _, l := range there {
			err = kernel.OneLine(err, kernel.DeleteLink(in, l))
		}
		return kernel.OneLine(err, removeTables(insideTables...))
	}, unix.NETLINK_NETFILTER)
}

const theNetns = "the namespace of ingress networks"

func removeEntrance(h *netlink.Handle) error {
	l, err := kernel.FindLink(h, NodeLink)
	if err != nil || l == nil {
		return err
	}
	return kernel.DeleteLink(h, l)
}
