package netd

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"

	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// holds are the sockets that keep published ports from being taken by a process
// of the node: a program that binds one gets EADDRINUSE, instead of starting
// well and never hearing from anybody. `ss` shows who has it. The sockets never
// receive anything: a filter drops every packet, so a connection that no rule
// caught (while a deleted table is being put back) waits instead of being
// refused, and nothing is ever accepted here.
type holds map[port]int // descriptor by port; -1: seen free, but not holdable

// dropAll is a classic BPF program that accepts zero bytes of each packet.
var dropAll = []unix.SockFilter{{Code: unix.BPF_RET | unix.BPF_K, K: 0}}

func holdKey(p port) port { p.target = 0; return p }

// take holds the endpoint's ports, in the calling thread's namespace. It takes
// all or none.
func (h holds) take(e endpoint) error {
	var taken []port
	for _, p := range e.ports {
		k := holdKey(p)
		if _, ok := h[k]; ok {
			continue // from before: perhaps of the task this one replaces
		}
		fd, err := hold(p)
		if err != nil {
			for _, k := range taken {
				h.release(k)
			}
			return err
		}
		h[k] = fd
		taken = append(taken, k)
	}
	return nil
}

func (h holds) release(k port) {
	if fd := h[k]; fd >= 0 {
		unix.Close(fd)
	}
	delete(h, k)
}

// keep releases every port that no endpoint publishes.
func (h holds) keep(endpoints []endpoint) {
	wanted := make(map[port]bool)
	for _, e := range endpoints {
		for _, p := range e.ports {
			wanted[holdKey(p)] = true
		}
	}
	for k := range h {
		if !wanted[k] {
			h.release(k)
		}
	}
}

func hold(p port) (fd int, err error) {
	kind := unix.SOCK_STREAM
	if p.udp {
		kind = unix.SOCK_DGRAM
	}
	fd, err = unix.Socket(unix.AF_INET, kind|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		return -1, err
	}
	if err = bindHold(fd, p); err == nil {
		return fd, nil
	}
	unix.Close(fd)
	switch {
	case errors.Is(err, unix.EACCES):
		// A port below net.ipv4.ip_unprivileged_port_start. netd lacks the
		// capability to bind it, and so does every ordinary process: it is
		// enough that nothing has it now.
		inUse, err := listening(p)
		if err != nil {
			return -1, fmt.Errorf("look whether port %s is in use: %w", p, err)
		}
		if inUse {
			return -1, fmt.Errorf("port %s is in use on this node: stop what listens there or publish another", p)
		}
		if !p.host.IsUnspecified() {
			return -1, hasAddress(p.host)
		}
		return -1, nil
	case errors.Is(err, unix.EADDRINUSE):
		return -1, fmt.Errorf("port %s is in use on this node: stop what listens there or publish another", p)
	case errors.Is(err, unix.EADDRNOTAVAIL):
		return -1, fmt.Errorf("%s is no address of this node", p.host)
	}
	return -1, fmt.Errorf("hold port %s: %w", p, err)
}

func bindHold(fd int, p port) error {
	prog := unix.SockFprog{Len: uint16(len(dropAll)), Filter: &dropAll[0]}
	if err := unix.SetsockoptSockFprog(fd, unix.SOL_SOCKET, unix.SO_ATTACH_FILTER, &prog); err != nil {
		return err
	}
	if !p.udp {
		// As any server does: closed connections in TIME_WAIT are no conflict.
		if err := unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_REUSEADDR, 1); err != nil {
			return err
		}
	}
	if err := unix.Bind(fd, &unix.SockaddrInet4{Port: int(p.published), Addr: p.host.As4()}); err != nil {
		return err
	}
	if p.udp {
		return nil
	}
	// Only a listening socket keeps out others that set SO_REUSEADDR.
	return unix.Listen(fd, 0)
}

// hasAddress binds an ephemeral port to learn whether the node has the address.
func hasAddress(a netip.Addr) error {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	if err := unix.Bind(fd, &unix.SockaddrInet4{Addr: a.As4()}); err != nil {
		return fmt.Errorf("%s is no address of this node", a)
	}
	return nil
}

// listening asks the kernel's socket diagnosis whether a socket of this
// namespace has the port.
func listening(p port) (bool, error) {
	const tcpListen, udpBound = 1 << 10, 1 << 7 // by state: LISTEN; CLOSE, which is what an unconnected UDP socket is in
	states := uint32(tcpListen)
	if p.udp {
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
			if len(m) >= 24 && binary.BigEndian.Uint16(m[4:]) == p.published && addressOverlaps(family, m[8:24], p.host) {
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
	// An IPv6 wildcard serves IPv4 too unless told otherwise, which cannot be
	// seen here: it counts as a conflict.
	return a.IsUnspecified() || host.IsUnspecified() && a.Unmap().Is4() || a.Unmap() == host
}
