// Package overlay owns the overlay networks of one node: links, routes and
// neighbours in a namespace of each network, and the interfaces that sandboxes
// have on them. It is part of redoubt-netd. What may pass is package rules'; what
// the tunnels may carry is package fabric's.
//
// # A network on a node
//
// Each network has a network namespace of its own, made and pinned by rund as
// sandboxes are. Nothing of the node is in it and nothing leads out of it but the
// network's VXLAN device, whose lower side stays with the WireGuard interface in
// the node's namespace. So a container reaches over a network the endpoints of
// that network, and there is no rule that would have to keep it from the rest.
//
//	sandbox ov0 ── rdtn… [ net-<id>: routes, rules ] vx0 ── WireGuard ── other nodes
//
// Packets are routed, not bridged. Every endpoint is a route of one address and a
// permanent neighbour: of a task of this node on its port, of another one on the
// VXLAN device with the router MAC of its node, which is made from the node's
// mesh address. The VXLAN device knows the mesh address behind each router MAC,
// floods nothing and learns nothing. Nobody asks where anybody is, by ARP or
// otherwise, and nobody who answers is heard. Virtual addresses and gateways are
// addresses of the namespace.
//
// # Use
//
// redoubtd declares the networks, whole or as a difference to what is in force
// (OverlayRequest in netdpb). A whole declaration is compared with what the
// kernel has; a difference touches what it names, and reads nothing. What is
// changed by hand is put back at the kernel's notice, and counted. An older
// generation is refused.
//
// # Closed
//
// A namespace gets rules that let nothing pass before it gets a link. Then come
// the links, down; then the rules that say who may send what; then what the nodes
// of the network may send is told to the fabric; then the links are set up and
// routes lead to them. What goes, goes in the opposite order. A call that the
// kernel refuses makes its network degraded: the rules let nothing pass again, its
// links are down, its nodes may send nothing, and it is tried again. What is wrong
// with the interface of one sandbox concerns that task alone, which then has none.
//
// # Restarts
//
// All of it outlives netd. The next one takes over what it finds, removes nothing
// before the first whole declaration, and then what that does not name.
package overlay

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net/netip"
	"os"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/redoubt-cluster/redoubt/mesh/netd/fabric"
	"github.com/redoubt-cluster/redoubt/mesh/netd/internal/kernel"
	"github.com/redoubt-cluster/redoubt/mesh/netd/netdpb"
	"github.com/redoubt-cluster/redoubt/mesh/netd/overlay/rules"
)

// Fabric is the node's end of the tunnels (fabric.Fabric).
type Fabric interface {
	Link() (name string, mtu int, addr netip.Addr)
	Admit(ctx context.Context, all []fabric.Admission) error
}

// Options say what Overlays work on.
type Options struct {
	// RunDir is the directory that holds netns/, where rund pins namespaces.
	RunDir string
	Fabric Fabric
	Logger *slog.Logger
	// Netns is the node's network namespace; nil: the calling thread's.
	Netns *os.File
}

// Overlays are the overlay networks of one node. Its methods may be used
// concurrently; they take turns.
type Overlays struct {
	runDir string
	fabric Fabric
	log    *slog.Logger
	ns     *os.File

	mu      sync.Mutex // guards the following, and the kernel's state
	plan    *plan
	sum     digest // of the declaration in force
	realms  map[string]*realm
	tunnel  tunnel // zero: not known
	blocked error  // why there is no tunnel
	strays  bool   // an earlier process may have left networks that nobody declared
	unsaid  bool   // the fabric does not know yet who may send
	repairs uint64
	meddled kernel.Meddling
	closed  bool

	kick chan struct{} // of capacity 1: Run is to look
	// unbounded: it was said that connections are not bounded.
	unbounded atomic.Bool

	deny     func(*kernel.Netfilter) error // replaced by tests only, as the next
	newTable func(*kernel.Netfilter) enforcer
}

// New returns the networks of the node; nothing is changed yet. Close it.
func New(o Options) (*Overlays, error) {
	if o.RunDir == "" || o.Fabric == nil {
		return nil, errors.New("overlay: the run directory or the fabric is not given")
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
		return nil, fmt.Errorf("overlay: open the node's network namespace: %w", err)
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	return &Overlays{runDir: o.RunDir, fabric: o.Fabric, log: o.Logger, ns: ns, plan: emptyPlan(), realms: map[string]*realm{}, strays: true, unsaid: true,
		kick: make(chan struct{}, 1), deny: rules.Deny, newTable: func(nf *kernel.Netfilter) enforcer { return rules.New(nf) }}, nil
}

// Close gives back the descriptors. The kernel's state stays.
func (o *Overlays) Close() error {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.closed {
		return nil
	}
	o.closed = true
	for _, r := range o.realms {
		r.forget()
	}
	return o.ns.Close()
}

// wake makes Run look.
func (o *Overlays) wake() {
	select {
	case o.kick <- struct{}{}:
	default: // it is going to look anyway
	}
}

// Follow is called when the fabric was declared: the interface may be another one.
func (o *Overlays) Follow() {
	o.mu.Lock()
	defer o.mu.Unlock()
	for _, r := range o.realms {
		if r.err != nil {
			r.retryAt = time.Time{}.Add(1) // at once
		}
	}
	o.wake()
}

// Declare makes the networks what the request says. On an error nothing has
// changed; what is wrong with single networks and endpoints is in the response,
// and is tried again.
func (o *Overlays) Declare(ctx context.Context, req *netdpb.OverlayRequest) (*netdpb.OverlayResponse, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.closed || ctx.Err() != nil {
		return nil, errors.New("netd is stopping")
	}
	sum, err := digestOf(req)
	if err != nil {
		return nil, err
	}
	d, err := parse(req)
	if err != nil {
		return nil, err
	}
	again, err := o.guard(d, sum)
	if err != nil {
		return nil, err
	}
	var news map[string]*touched
	if again {
		news = make(map[string]*touched, len(d.networks))
		for _, c := range d.networks {
			news[c.id] = &touched{whole: true}
		}
	} else {
		next, all, err := o.plan.merge(d)
		if err != nil {
			return nil, err
		}
		// From here on the declaration stands, whether all of it succeeds or not.
		o.plan, o.sum, news = next, sum, all
	}
	if d.base == 0 && o.strays {
		o.removeStrays()
	}
	changes := o.apply(ctx, news)
	if changes > 0 && d.base == 0 {
		o.log.Info("networks declared", "generation", o.plan.generation, "networks", len(o.plan.networks), "changes", changes)
	}
	return o.response(news), nil
}

// apply makes these networks what the plan says, and returns how much had to be
// done. o.mu is held.
func (o *Overlays) apply(ctx context.Context, news map[string]*touched) (changes int) {
	// What is begun is done: half of it would be a network that is closed. Every
	// request to the kernel has a deadline of its own.
	ctx = context.WithoutCancel(ctx)
	ids := slices.Sorted(maps.Keys(news))
	o.findTunnel()
	var gone, here, up []*realm
	for _, id := range ids {
		r, n := o.realms[id], o.plan.networks[id]
		switch {
		case n != nil && r == nil:
			r = &realm{o: o, id: id, ports: map[string]port{}}
			o.realms[id] = r
			fallthrough
		case n != nil:
			r.net, r.changes = n, nil
			here = append(here, r)
		case r != nil:
			gone = append(gone, r)
			delete(o.realms, id)
			changes++
		}
	}
	for i, err := range each(gone, (*realm).leave) {
		gone[i].assign(false)
		if err != nil {
			o.log.Error("what is left of a network is not removed", "network", gone[i].id, "err", err)
			o.strays = true
		}
	}
	for i, err := range each(here, func(r *realm) error { return r.begin(ctx, news[r.id]) }) {
		if err != nil {
			here[i].shut(err)
			continue
		}
		here[i].assign(true)
		up = append(up, here[i])
	}
	// What goes may not be sent any more, and what comes may, before it can pass.
	if err := o.admit(ctx); err != nil {
		for _, r := range up {
			r.shut(err)
		}
		up = nil
	}
	widen := func(r *realm) error {
		return r.within(news[r.id], func(h *netlink.Handle) error { return r.widen(h, news[r.id]) })
	}
	for i, err := range each(up, widen) {
		r := up[i]
		if err != nil {
			r.shut(err)
			continue
		}
		if r.err != nil {
			o.log.Info("network is as declared again", "network", r.id)
		}
		r.err = nil
		changes += len(r.changes)
	}
	if err := o.admit(ctx); err != nil { // of those that failed since
		o.log.Error("who may send no more is not said; it is tried again", "err", err)
	}
	now := time.Now()
	for _, id := range ids {
		if r := o.realms[id]; r != nil {
			if news[id].whole {
				r.swept = now
			}
			r.again(now)
		}
	}
	o.wake() // Run knows when to look next
	return changes
}

// each does so with all of them, some at a time, as most of it is waiting for the
// kernel; they share nothing that it changes. The errors are in their order.
func each(realms []*realm, do func(*realm) error) []error {
	errs := make([]error, len(realms))
	var next atomic.Int64
	var running sync.WaitGroup
	for range min(maxAtOnce, len(realms)) {
		running.Go(func() {
			for i := next.Add(1) - 1; int(i) < len(realms); i = next.Add(1) - 1 {
				errs[i] = do(realms[i])
			}
		})
	}
	running.Wait()
	return errs
}

// begin is the first half of making the network what it is to be.
func (r *realm) begin(ctx context.Context, t *touched) error {
	if r.o.blocked != nil {
		return r.o.blocked
	}
	if r.have == nil || r.tunnel != r.o.tunnel {
		t.whole = true
	}
	if t.whole || t.paths {
		if err := r.open(); err != nil {
			return err
		}
	}
	r.tunnel = r.o.tunnel
	return r.within(t, func(h *netlink.Handle) error { return r.narrow(ctx, h, t) })
}

// findTunnel looks at the node's end of the tunnels.
func (o *Overlays) findTunnel() {
	o.tunnel, o.blocked = tunnel{}, nil
	if len(o.plan.networks) == 0 {
		return
	}
	name, _, _ := o.fabric.Link()
	o.blocked = kernel.WithRoutes(o.ns, func(h *netlink.Handle) (err error) {
		o.tunnel, err = findTunnel(h, name, o.plan.mesh)
		return err
	})
}

// assign notes who may send on the network: while it is closed, nobody.
func (r *realm) assign(open bool) {
	want := make(map[fabric.Admission]bool)
	if open {
		for node := range r.net.nodes {
			want[fabric.Admission{Node: node, VNI: r.net.vni, MAC: routerMAC(node)}] = true
		}
	}
	if !maps.Equal(want, r.told) {
		r.told, r.o.unsaid = want, true
	}
}

// admit tells the fabric who may send, if it does not know.
func (o *Overlays) admit(ctx context.Context) error {
	if !o.unsaid {
		return nil
	}
	var all []fabric.Admission
	for _, r := range o.realms {
		all = slices.AppendSeq(all, maps.Keys(r.told))
	}
	err := o.fabric.Admit(ctx, all)
	o.unsaid = err != nil
	if err != nil {
		return fmt.Errorf("tell the fabric who may send: %w", err)
	}
	return nil
}
