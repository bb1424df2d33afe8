// Package fabric owns the node's end of the mesh's tunnels: one WireGuard
// interface, its peers, and the table of rules that keeps the mesh closed around
// it. Everything containers of different nodes say to each other goes through
// here; what does not is dropped. It is part of redoubt-netd.
//
// # Use
//
// redoubtd asks for the node's public key (State), makes a pre-shared key with
// each node it shares a network with, and declares the interface and its peers,
// whole or as a difference to what is in force. The declaration is compared with
// the device and only what differs is told to it: a session lives on through any
// number of declarations that leave its peer as it was. An older generation is
// refused, and so is a declaration made for a key that is not this node's: netd
// was started anew, and pre-shared keys are to be made again.
//
// A peer has a pre-shared key, or is refused. It may send from its mesh address
// alone. Where it is, is told once and then found by WireGuard itself, as long as
// it is heard there (astray.go).
//
// # Drivers
//
// The kernel's WireGuard where there is one, wireguard-go inside this process where
// not, over the fastest interface there is (package fasttap). An interface that is
// there when netd starts decides: it is kept with all that was built on it, but for a
// TUN that an earlier netd made where this one has better. The kernel's goes on without
// netd, sessions and key included. The embedded one's ends with netd, but not its
// interface: addresses, routes and VXLAN devices stay, and what is sent is dropped
// until netd is back and told the peers again. Nobody else may attach to it meanwhile.
//
// # Keys
//
// A private key is born here and is given to the driver alone (keys.go). Rotate
// makes the next one. It comes into force when a declaration names it, whose
// pre-shared keys were made for it, and a peer that is alive must be in that
// declaration: so nobody is cut off by a rotation it did not confirm. The peers
// were told the next key before: they hold it beside the one in force, without
// an address, and hand the address over when the new key first shakes hands,
// without being asked. What the old session still carries is accepted until
// then (docs/decisions/0055-key-change.md).
//
// In FIPS mode there is neither key nor tunnel, and the table stands all the same.
//
// # Closed
//
// The table inet redoubt_mesh stands from the start of netd, before there is a
// peer, until cleanup (rules.go). Whoever changes or deletes it finds it put
// back at the kernel's notice, and counted. VXLAN is taken from the tunnel
// alone, and only what Admit lets a peer send: its mesh address, the network's
// VNI and the inner source MAC together. VXLAN, and whatever is for a mesh
// address, leaves through the tunnel or not at all.
package fabric

import (
	"context"
	"crypto/fips140"
	"crypto/sha256"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"sync"
	"syscall"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
	"golang.zx2c4.com/wireguard/wgctrl/wgtypes"

	"github.com/redoubt-cluster/redoubt/mesh/netd/fasttap"
	"github.com/redoubt-cluster/redoubt/mesh/netd/internal/kernel"
	"github.com/redoubt-cluster/redoubt/mesh/netd/netdpb"
)

// Options say what a Fabric works on.
type Options struct {
	Logger *slog.Logger
	// Netns is the node's network namespace; nil: the calling thread's.
	Netns *os.File
}

// Fabric is the WireGuard interface of one node. Its methods may be used
// concurrently; they take turns.
type Fabric struct {
	log  *slog.Logger
	ns   *os.File
	link string

	mu     sync.Mutex // guards the following, and the kernel's state
	table  table
	driver driver // nil: none is open
	// current is nil until the driver is first needed or asked for; next until
	// Rotate.
	current, next *secret
	plan          *plan
	sum           [sha256.Size]byte // of the declaration in force
	port          int               // that the device has; 0: not known
	chosen        int               // that it had last
	mtu           int
	have          entries // what the device was told; nil: not known
	paths
	// turned are next keys of peers that have shaken hands.
	turned map[wgtypes.Key]bool
	// asleep are keys of peers that are still to shake hands.
	asleep []wgtypes.Key
	// strays are peers that were heard from elsewhere than declared.
	strays   map[wgtypes.Key]*stray
	repairs  uint64
	meddled  kernel.Meddling
	degraded error
	closed   bool
	admitted [admitters]map[[16]byte]bool
	policies kernel.Policies

	kick  chan struct{} // of capacity 1: Run is to look at the MTU
	turns chan struct{} // of capacity 1: Run is to follow turns

	// Set by tests only.
	avoidKernel bool
	best        fasttap.Mode // of the embedded driver; 0: any
}

// New returns the fabric of the node; nothing is changed yet. Close it.
func New(o Options) (*Fabric, error) {
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
		return nil, fmt.Errorf("fabric: open the node's network namespace: %w", err)
	}
	link, err := linkName(ns)
	if err != nil {
		ns.Close()
		return nil, err
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	return &Fabric{log: o.Logger, ns: ns, link: link, table: table{link: link}, plan: emptyPlan(), turned: map[wgtypes.Key]bool{}, strays: map[wgtypes.Key]*stray{},
		kick: make(chan struct{}, 1), turns: make(chan struct{}, 1)}, nil
}

// Close ends the embedded driver and wipes the keys. The kernel's state stays.
func (f *Fabric) Close() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.closed {
		return nil
	}
	f.closed = true
	if f.driver != nil {
		f.driver.close()
	}
	f.current.wipe()
	f.next.wipe()
	if f.table.nf != nil {
		f.table.nf.Close()
	}
	return f.ns.Close()
}

// Start puts the table in force and takes over what an earlier process left, or, in
// FIPS mode, removes its tunnels: the kernel's would go on without netd.
func (f *Fabric) Start() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.inside(func(h *netlink.Handle) error {
		f.lookForLoss(h)
		if err := f.table.adopt(); err != nil {
			f.log.Warn("the table of an earlier process cannot be read and begins empty", "err", err)
		}
		if err := f.table.commit(); err != nil {
			return err
		}
		if err := f.dropUnjudged(func(string) {}); err != nil {
			return err
		}
		if fips140.Enforced() {
			return removeLinks(h)
		}
		link, err := kernel.FindLink(h, f.link)
		if err != nil || link == nil || link.Type() != "wireguard" {
			return err
		}
		return f.open(h) // sessions go on: its key is ours
	})
}

// inside runs fn on a thread in the node's namespace. f.mu is held.
func (f *Fabric) inside(fn func(h *netlink.Handle) error) error {
	if f.closed {
		return errors.New("netd is stopping")
	}
	return kernel.WithRoutes(f.ns, func(h *netlink.Handle) (err error) {
		if f.table.nf == nil {
			if f.table.nf, err = kernel.OpenNetfilter(); err != nil {
				return err
			}
		}
		return fn(h)
	})
}

// open makes sure that there are a driver and a key.
func (f *Fabric) open(h *netlink.Handle) error {
	if f.driver != nil && f.driver.alive() {
		if link, err := kernel.FindLink(h, f.link); err != nil || link != nil {
			return err
		}
	}
	if f.driver != nil {
		f.driver.close()
		f.driver = nil
	}
	f.have, f.port = nil, 0
	d, err := f.openLink(h)
	if err != nil {
		return err
	}
	if k, ok := d.(*kernelDriver); ok && f.current == nil {
		if s, err := holdSecret(k.key); err == nil {
			f.current = s
		}
	}
	if err := f.ensureKey(); err != nil {
		d.close()
		return err
	}
	f.driver = d
	return nil
}

func (f *Fabric) ensureKey() (err error) {
	if f.current == nil {
		f.current, err = newSecret()
	}
	return err
}

// Declare makes the interface and its peers what the request says. On an error
// nothing, or a part of it, is in force; the same request may be sent again.
// Keys in the request are wiped.
func (f *Fabric) Declare(_ context.Context, req *netdpb.FabricRequest) (*netdpb.FabricResponse, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	sum, err := digest(req)
	if err != nil {
		return nil, err
	}
	d, err := parse(req)
	if err != nil {
		return nil, err
	}
	again, err := f.guard(d, sum)
	if err != nil {
		return nil, err
	}
	var resp *netdpb.FabricResponse
	err = f.inside(func(h *netlink.Handle) error {
		if err := f.ensureKey(); err != nil {
			return err
		}
		turn := f.next != nil && d.own == f.next.public
		if !turn && d.own != (wgtypes.Key{}) && d.own != f.current.public {
			return fmt.Errorf("own_public_key %s is not this node's, which is %s: make the pre-shared keys anew for it", d.own, f.current.public)
		}
		if turn && !again {
			if err := f.nobodyLeftBehind(d); err != nil {
				return err
			}
		}
		var touched map[wgtypes.Key]bool
		before := f.plan.settings
		if !again {
			own := []wgtypes.Key{f.current.public}
			if f.next != nil {
				own = append(own, f.next.public)
			}
			p, t, err := f.plan.merge(d, own...)
			if err != nil {
				return err
			}
			// From here on the declaration stands, whether all of it succeeds
			// or not.
			f.plan, f.sum, touched = p, sum, t
			f.forgetTurns()
			f.noteTurns()
		}
		if touched != nil && f.mayBeBrief(before) {
			if err := kernel.OneLine(f.settlePeers(touched, func(string) {}), f.settleRoutes(h, false, func(string) {})); err != nil {
				return err
			}
			select {
			case f.kick <- struct{}{}:
			default: // it is going to look anyway
			}
			resp = f.response()
			return nil
		}
		changes, err := f.reconcile(h)
		f.degraded = err
		if err != nil {
			return err
		}
		if len(changes) > 0 {
			f.log.Info("mesh declared", "generation", f.plan.generation, "peers", len(f.plan.peers), "changes", changes)
		}
		resp = f.response()
		return nil
	})
	if err != nil {
		f.log.Error("mesh not declared", "generation", d.generation, "err", err)
		return nil, err
	}
	return resp, nil
}

// Rotate makes the next key, if there is none.
func (f *Fabric) Rotate(context.Context) (*netdpb.FabricRotateResponse, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.closed {
		return nil, errors.New("netd is stopping")
	}
	if err := f.ensureKey(); err != nil {
		return nil, err
	}
	if f.next == nil {
		var err error
		if f.next, err = newSecret(); err != nil {
			return nil, err
		}
	}
	return &netdpb.FabricRotateResponse{PublicKey: f.current.public[:], NextPublicKey: f.next.public[:]}, nil
}

// Link is the interface that carries the mesh and the MTU of what goes into it;
// 0 while none is declared.
func (f *Fabric) Link() (name string, mtu int, addr netip.Addr) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.link, f.mtu, f.plan.address.Addr()
}

func (f *Fabric) response() *netdpb.FabricResponse {
	return &netdpb.FabricResponse{PublicKey: f.current.public[:], ListenPort: uint32(f.port), Interface: f.link, Mtu: uint32(f.mtu)}
}

// Cleanup deletes everything the fabric owns in the network namespace, which nil
// takes to be the calling thread's. The table goes last.
func Cleanup(ns *os.File) error {
	if ns == nil {
		var err error
		if ns, err = kernel.OpenOwn(); err != nil {
			return err
		}
		defer ns.Close()
	}
	return kernel.WithRoutes(ns, func(h *netlink.Handle) error {
		if err := removeLinks(h); err != nil {
			return err
		}
		if _, err := kernel.DropUnjudged(kernel.JudgedByMesh, nil); err != nil {
			return err
		}
		return removeTable()
	}, unix.NETLINK_NETFILTER)
}

// portError says what is wrong with a port in words.
func portError(err error, port int) error {
	if errors.Is(err, syscall.EADDRINUSE) {
		return fmt.Errorf("UDP port %d is in use on this node: stop what listens there, or give the mesh another with node.mesh.port", port)
	}
	return err
}
