package overlay

import (
	"fmt"
	"net/netip"
	"os"
	"sync/atomic"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/redoubt-cluster/redoubt/mesh/netd/fabric"
	"github.com/redoubt-cluster/redoubt/mesh/netd/internal/kernel"
)

// A realm is a network on this node: its namespace, and what is known of it. The
// lock of the Overlays guards it, but for what is atomic.
type realm struct {
	o      *Overlays
	id     string
	net    *network // what it is to be
	tunnel tunnel   // what it is to be made on

	file     *os.File // the namespace; nil: not open
	identity kernel.Identity
	socket   *kernel.Socket
	nf       *kernel.Netfilter
	notices  *kernel.Notices
	news     atomic.Uint32
	deaf     atomic.Bool // the notices ended

	table   enforcer        // nil: what is in force is not known
	rules   *ruleset        // nil: nothing was told
	have    *paths          // nil: not known
	uplink  int32           // index of the VXLAN device
	ports   map[string]port // by task: those that are in place
	pending []op            // what narrow leaves to widen
	changes []string        // what had to be done since apply began

	told    map[fabric.Admission]bool // who may send
	err     error                     // why all of it is closed
	bad     map[string]error          // by task: why it has no interface
	retryAt time.Time                 // zero: nothing has failed
	retry   time.Duration
	swept   time.Time
	rest    time.Time // not to be looked at before
	walkAt  time.Time // nor at its connections
}

// Bits of news.
const (
	newsPaths = 1 << iota
	newsRules
	newsSettings
	newsStale // connections are to be looked for that the network has no place for
)

func (r *realm) changed(what string) { r.changes = append(r.changes, what) }

// open makes sure that the namespace of the network is the one that is pinned
// now, and listened to.
func (r *realm) open() error {
	f, err := kernel.OpenPinned(r.o.runDir, r.net.netns, "namespace", r.o.ns)
	if err != nil {
		// Who took the name away wants it gone: nothing of it is to be held on to.
		return kernel.OneLine(err, r.leave())
	}
	id, err := kernel.IdentityOf(f)
	if err != nil {
		f.Close()
		return err
	}
	if r.file != nil && id == r.identity && !r.deaf.Load() {
		return f.Close()
	}
	if r.file != nil && id == r.identity {
		r.forget()
	} else if err := r.leave(); err != nil {
		f.Close()
		return err
	}
	r.file, r.identity = f, id
	err = kernel.InNetns(f, func() (err error) {
		if r.socket, err = kernel.OpenSocket(); err == nil {
			r.nf, err = kernel.OpenNetfilter()
		}
		return err
	})
	if err != nil {
		r.forget()
		return err
	}
	own := r.socket.Port()
	r.deaf.Store(false)
	r.notices, err = kernel.Listen(f, func(t kernel.Topic, b []byte) { r.hear(t, b, own) }, func() { r.deaf.Store(true); r.o.wake() }, kernel.Rulesets, kernel.Paths)
	if err == nil {
		err = r.notices.Ignore(kernel.Paths, own)
	}
	if err != nil {
		r.forget()
	}
	return err
}

// hear notes news of others; that of our own batches is none.
func (r *realm) hear(t kernel.Topic, b []byte, own uint32) {
	if t == kernel.Rulesets {
		r.news.Or(newsRules)
		r.o.wake()
		return
	}
	var news uint32
	err := kernel.Messages(b, func(h unix.NlMsghdr, body []byte) error {
		// That a neighbour was removed is said twice, first by whom.
		echo := h.Pid == 0 && h.Type == unix.RTM_DELNEIGH && isFailed(body)
		switch {
		case h.Type == unix.RTM_NEWNETCONF || h.Type == unix.RTM_DELNETCONF:
			news |= newsSettings
		case h.Pid != own && !echo:
			news |= newsPaths
		}
		return nil
	})
	if b == nil || err != nil {
		news = newsPaths | newsSettings
	}
	if news != 0 {
		r.news.Or(news)
		r.o.wake()
	}
}

// forget closes what is open; the kernel's state stays.
func (r *realm) forget() {
	if r.notices != nil {
		r.notices.Close()
	}
	if r.socket != nil {
		r.socket.Close()
	}
	if r.nf != nil {
		r.nf.Close()
	}
	if r.file != nil {
		r.file.Close()
	}
	r.file, r.socket, r.nf, r.notices = nil, nil, nil, nil
	r.unknow()
}

// unknow makes the next pass read everything.
func (r *realm) unknow() {
	r.table, r.rules, r.have, r.uplink, r.pending = nil, nil, nil, 0, nil
	r.ports = map[string]port{}
}

// leave takes our links out of the namespace and closes it; the rules that let
// nothing pass stay.
func (r *realm) leave() error {
	var err error
	if r.file != nil {
		err = empty(r.file, r.nf, r.o.deny)
	}
	r.forget()
	return err
}

// empty takes the links that are ours out of a network's namespace.
func empty(ns *os.File, nf *kernel.Netfilter, deny func(*kernel.Netfilter) error) error {
	return kernel.WithRoutes(ns, func(h *netlink.Handle) error {
		links, err := kernel.Whole(h.LinkList)
		if err != nil {
			return fmt.Errorf("list interfaces: %w", err)
		}
		for _, l := range links {
			if name := l.Attrs().Name; name == uplinkName || isPort(name) {
				if err := kernel.DeleteLink(h, l); err != nil {
					return err
				}
			}
		}
		return deny(nf)
	})
}

// shut closes everything of the network: what is in it cannot be relied on.
func (r *realm) shut(cause error) {
	if r.file != nil {
		err := kernel.WithRoutes(r.file, func(h *netlink.Handle) error {
			err := r.o.deny(r.nf)
			links, e := kernel.Whole(h.LinkList)
			err = kernel.OneLine(err, e)
			for _, l := range links {
				if name := l.Attrs().Name; name == uplinkName || isPort(name) {
					err = kernel.OneLine(err, h.LinkSetDown(l))
				}
			}
			return err
		})
		if err != nil {
			cause = fmt.Errorf("%w; and closing it: %w", cause, err)
		}
	}
	r.unknow()
	r.assign(false)
	r.fail(cause)
}

// fail notes why the network is closed.
func (r *realm) fail(err error) {
	if r.err == nil || r.err.Error() != err.Error() {
		r.o.log.Error("network is degraded: everything of it is closed, it is tried again", "network", r.id, "err", err)
	}
	r.err = err
}

// again says when to try what failed again.
func (r *realm) again(now time.Time) {
	if r.err == nil && len(r.bad) == 0 {
		r.retry, r.retryAt = 0, time.Time{}
		return
	}
	r.retry = min(max(2*r.retry, retryFirst), retryMost)
	r.retryAt = now.Add(r.retry)
}

// within runs fn on a thread in the network's namespace, with h for its links, if
// that is needed: for tasks of other nodes, and services, it is not.
func (r *realm) within(t *touched, fn func(h *netlink.Handle) error) error {
	inside := t.whole || t.paths || t.settings || r.have == nil
	for task := range t.tasks {
		_, plugged := r.ports[task]
		inside = inside || plugged || r.net.locals[task] != nil
	}
	if !inside {
		return fn(nil)
	}
	return kernel.WithRoutes(r.file, fn)
}

// want is where an address is to lead.
func (r *realm) want(a netip.Addr) (path, bool) {
	o, ok := r.net.owners[a]
	switch {
	case !ok:
		return path{}, false
	case o.service != nil:
		return path{link: localLink}, true
	case !o.endpoint.local():
		return path{link: r.uplink, mac: routerMAC(o.endpoint.node)}, true
	}
	p, ok := r.ports[o.endpoint.task]
	return path{p.link, [6]byte(sandboxMAC(r.id, o.endpoint))}, ok
}
