// Package hold keeps published ports from being taken by a process of the node: a
// program that binds one gets EADDRINUSE, instead of starting well and never
// hearing from anybody; and where a program has it already, publishing is an error
// with a name. `ss` shows who holds it. The sockets never receive anything: a
// filter drops every packet, so a connection that no rule caught (while a deleted
// table is being put back) waits instead of being refused, and nothing is ever
// accepted here.
//
// Ports that cannot be held without a capability netd does not have are only
// looked at: see Listening.
package hold

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"sync"

	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// A Port is one that is published.
type Port struct {
	UDP    bool
	Host   netip.Addr // 0.0.0.0 or ::, every address of the node of that family
	Number uint16
}

// String is how people write the port.
func (p Port) String() string {
	name := "tcp"
	if p.UDP {
		name = "udp"
	}
	if !p.Host.IsUnspecified() {
		return fmt.Sprintf("%s/%s", netip.AddrPortFrom(p.Host, p.Number), name)
	}
	return fmt.Sprintf("%d/%s", p.Number, name)
}

// Overlaps reports whether both cannot be published on one node.
func (p Port) Overlaps(q Port) bool {
	return p.UDP == q.UDP && p.Number == q.Number && p.Host.Is4() == q.Host.Is4() && (p.Host == q.Host || p.Host.IsUnspecified() || q.Host.IsUnspecified())
}

func (p Port) proto() byte {
	if p.UDP {
		return unix.IPPROTO_UDP
	}
	return unix.IPPROTO_TCP
}

// A Book knows all that is held on the node, whoever published it.
type Book struct {
	mu   sync.Mutex
	held map[Port]int // descriptor by port; seen: free when it was looked at
}

// seen stands for the descriptor of a port that cannot be held.
const seen = -1

func NewBook() *Book { return &Book{held: map[Port]int{}} }

// Take holds the port, in the calling thread's namespace.
func (b *Book) Take(p Port) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	for q := range b.held {
		if q.Number == p.Number && q.Overlaps(p) {
			return fmt.Errorf("port %s is published on this node already: publish another", p)
		}
	}
	fd, err := hold(p)
	if err != nil {
		return err
	}
	b.held[p] = fd
	return nil
}

// Release gives it back.
func (b *Book) Release(p Port) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if fd, ok := b.held[p]; ok && fd != seen {
		unix.Close(fd)
	}
	delete(b.held, p)
}

// Free says whether a port that was taken is still nobody else's: one that could
// not be held may have been bound by somebody since.
func (b *Book) Free(p Port) error {
	b.mu.Lock()
	fd, ok := b.held[p]
	b.mu.Unlock()
	if !ok || fd != seen {
		return nil
	}
	return lookAt(p)
}

var dropAll = []unix.SockFilter{{Code: unix.BPF_RET | unix.BPF_K, K: 0}} // accepts zero bytes of each packet

func inUse(p Port) error {
	return fmt.Errorf("port %s is in use on this node: stop what listens there or publish another", p)
}

func hold(p Port) (fd int, err error) {
	kind := unix.SOCK_STREAM
	if p.UDP {
		kind = unix.SOCK_DGRAM
	}
	fd, err = unix.Socket(family(p.Host), kind|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if errors.Is(err, unix.EAFNOSUPPORT) {
		return 0, fmt.Errorf("port %s: %w", p, ErrNoIPv6)
	}
	if err != nil {
		return 0, err
	}
	if err = bind(fd, p); err == nil {
		return fd, nil
	}
	unix.Close(fd)
	switch {
	case errors.Is(err, unix.EACCES):
		// A port below net.ipv4.ip_unprivileged_port_start. netd lacks the
		// capability to bind it, and so does every ordinary process: it is
		// enough that nothing has it now.
		if err := lookAt(p); err != nil {
			return 0, err
		}
		if !p.Host.IsUnspecified() {
			return seen, hasAddress(p.Host)
		}
		return seen, nil
	case errors.Is(err, unix.EADDRINUSE):
		return 0, inUse(p)
	case errors.Is(err, unix.EADDRNOTAVAIL):
		return 0, fmt.Errorf("%s is no address of this node", p.Host)
	}
	return 0, fmt.Errorf("hold port %s: %w", p, err)
}

func bind(fd int, p Port) error {
	prog := unix.SockFprog{Len: uint16(len(dropAll)), Filter: &dropAll[0]}
	if err := unix.SetsockoptSockFprog(fd, unix.SOL_SOCKET, unix.SO_ATTACH_FILTER, &prog); err != nil {
		return err
	}
	if !p.UDP {
		// As any server does: closed connections in TIME_WAIT are no conflict.
		if err := unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_REUSEADDR, 1); err != nil {
			return err
		}
	}
	if p.Host.Is6() { // IPv4 is another port of the book
		if err := unix.SetsockoptInt(fd, unix.IPPROTO_IPV6, unix.IPV6_V6ONLY, 1); err != nil {
			return err
		}
	}
	if err := unix.Bind(fd, sockaddr(p.Host, p.Number)); err != nil {
		return err
	}
	if p.UDP {
		return nil
	}
	// Only a listening socket keeps out others that set SO_REUSEADDR.
	return unix.Listen(fd, 0)
}

// hasAddress binds an ephemeral port to learn whether the node has the address.
func hasAddress(a netip.Addr) error {
	fd, err := unix.Socket(family(a), unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	if err := unix.Bind(fd, sockaddr(a, 0)); err != nil {
		return fmt.Errorf("%s is no address of this node", a)
	}
	return nil
}

// ErrNoIPv6 is of a kernel that has none.
var ErrNoIPv6 = errors.New("this node has no IPv6")

func family(a netip.Addr) int {
	if a.Is6() {
		return unix.AF_INET6
	}
	return unix.AF_INET
}

func sockaddr(a netip.Addr, port uint16) unix.Sockaddr {
	if a.Is6() {
		return &unix.SockaddrInet6{Addr: a.As16(), Port: int(port)}
	}
	return &unix.SockaddrInet4{Addr: a.As4(), Port: int(port)}
}

func lookAt(p Port) error {
	used, err := Listening(p)
	if err != nil {
		return fmt.Errorf("look whether port %s is in use: %w", p, err)
	}
	if used {
		return inUse(p)
	}
	return nil
}

// Listening asks the kernel's socket diagnosis whether a socket of this namespace
// has the port.
func Listening(p Port) (bool, error) {
	const tcpListen, udpBound = 1 << 10, 1 << 7 // by state: LISTEN; CLOSE, which is what an unconnected UDP socket is in
	states := uint32(tcpListen)
	if p.UDP {
		states = udpBound
	}
	for _, family := range []byte{unix.AF_INET, unix.AF_INET6} {
		// struct inet_diag_req_v2: family, protocol, ext, pad, states, id.
		body := make([]byte, 56)
		body[0], body[1] = family, p.proto()
		binary.NativeEndian.PutUint32(body[4:], states)
		req := nl.NewNetlinkRequest(nl.SOCK_DIAG_BY_FAMILY, unix.NLM_F_DUMP)
		req.AddRawData(body)
		msgs, err := req.Execute(unix.NETLINK_SOCK_DIAG, 0)
		if err != nil {
			return false, err
		}
		for _, m := range msgs {
			// struct inet_diag_msg: four bytes, then ports and addresses.
			if len(m) >= 24 && binary.BigEndian.Uint16(m[4:]) == p.Number && addressOverlaps(family, m[8:24], p.Host) {
				return true, nil
			}
		}
	}
	return false, nil
}

func addressOverlaps(family byte, b []byte, host netip.Addr) bool {
	a := netip.AddrFrom16([16]byte(b))
	if family == unix.AF_INET {
		a = netip.AddrFrom4([4]byte(b[:4]))
	}
	if host.Is6() {
		return family == unix.AF_INET6 && !a.Is4In6() && (a.IsUnspecified() || host.IsUnspecified() || a == host)
	}
	// An IPv6 wildcard serves IPv4 too unless told otherwise, which cannot be
	// seen here: it counts as a conflict.
	return a.IsUnspecified() || host.IsUnspecified() && a.Unmap().Is4() || a.Unmap() == host
}
