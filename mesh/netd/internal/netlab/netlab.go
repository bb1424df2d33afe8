// Package netlab makes what tests of netd's packages stand on: network namespaces
// and a wire between them. Everything is the test's own and ends with it; nothing
// of the machine is touched, and labs of other tests are not met, as no name is
// shared. It is for tests only, which run as root.
package netlab

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"runtime"
	"strings"
	"testing"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/redoubt-cluster/redoubt/mesh/netd/internal/kernel"
)

// Netns makes a network namespace, with everything down; with a path it is pinned
// there, as rund does.
func Netns(t testing.TB, path string) *os.File {
	t.Helper()
	var f *os.File
	done := make(chan error)
	go func() {
		runtime.LockOSThread() // the thread ends here
		done <- func() (err error) {
			if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
				return err
			}
			if path != "" {
				if err := errors.Join(os.WriteFile(path, nil, 0o600), unix.Mount("/proc/thread-self/ns/net", path, "", unix.MS_BIND, "")); err != nil {
					return err
				}
				t.Cleanup(func() { unix.Unmount(path, unix.MNT_DETACH) })
			}
			f, err = kernel.OpenOwn()
			return err
		}()
	}()
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	return f
}

// Within runs fn in the namespace.
func Within(t testing.TB, ns *os.File, fn func() error) {
	t.Helper()
	if err := kernel.InNetns(ns, fn); err != nil {
		t.Fatal(err)
	}
}

// Links runs fn with a handle for links, routes and connections of the namespace.
func Links(t testing.TB, ns *os.File, fn func(h *netlink.Handle) error) {
	t.Helper()
	if err := kernel.WithRoutes(ns, fn, unix.NETLINK_NETFILTER); err != nil {
		t.Fatal(err)
	}
}

// Up sets the interface up.
func Up(h *netlink.Handle, name string) error {
	l, err := h.LinkByName(name)
	if err != nil {
		return err
	}
	return h.LinkSetUp(l)
}

// A Wire is one Ethernet between namespaces: a bridge in a namespace of its own.
type Wire struct {
	t  testing.TB
	NS *os.File
}

func NewWire(t testing.TB) *Wire {
	t.Helper()
	w := &Wire{t, Netns(t, "")}
	Links(t, w.NS, func(h *netlink.Handle) error {
		return errors.Join(h.LinkAdd(&netlink.Bridge{LinkAttrs: netlink.LinkAttrs{Name: "br0", TxQLen: -1}}), Up(h, "br0"))
	})
	return w
}

// Under is the address of the i-th namespace on a wire.
func Under(i int) string { return fmt.Sprintf("192.0.2.%d", i) }

// Plug makes a namespace with an interface u0 on the wire, whose other end is p<i>
// there, and returns it.
func (w *Wire) Plug(i int) *os.File {
	w.t.Helper()
	ns, port := Netns(w.t, ""), fmt.Sprintf("p%d", i)
	Links(w.t, w.NS, func(h *netlink.Handle) error {
		br, err := h.LinkByName("br0")
		if err != nil {
			return err
		}
		return errors.Join(h.LinkAdd(&netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: port, TxQLen: -1, MasterIndex: br.Attrs().Index},
			PeerName: "u0", PeerNamespace: netlink.NsFd(int(ns.Fd()))}), Up(h, port))
	})
	Links(w.t, ns, func(h *netlink.Handle) error {
		u, err := h.LinkByName("u0")
		if err != nil {
			return err
		}
		addr := &netlink.Addr{IPNet: &net.IPNet{IP: netip.MustParseAddr(Under(i)).AsSlice(), Mask: net.CIDRMask(24, 32)}}
		return errors.Join(h.AddrAdd(u, addr), Up(h, "lo"), h.LinkSetUp(u))
	})
	return ns
}

// A Log writes what a node of a lab logs to the test's log; benchmarks have none.
type Log struct {
	T    testing.TB
	Node int
}

func (l Log) Write(b []byte) (int, error) {
	if _, bench := l.T.(*testing.B); !bench {
		l.T.Logf("node %d: %s", l.Node, strings.TrimSpace(string(b)))
	}
	return len(b), nil
}

// Generation is the number of the ruleset in the calling thread's namespace: each
// commit of anybody makes another one.
func Generation() (uint32, error) {
	nf, err := kernel.OpenNetfilter()
	if err != nil {
		return 0, err
	}
	defer nf.Close()
	return nf.Generation()
}
