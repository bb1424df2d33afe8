package kernel

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"slices"
	"sync"
	"sync/atomic"

	"golang.org/x/sys/unix"
)

// A Topic is something the kernel tells of.
type Topic struct {
	name     string
	protocol int
	groups   uint32
}

var (
	// Rulesets: every change to the nftables of the namespace.
	Rulesets = Topic{"nftables", unix.NETLINK_NETFILTER, 1 << (unix.NFNLGRP_NFTABLES - 1)}
	// Routes: interfaces, addresses and routes.
	Routes = Topic{"interfaces and routes", unix.NETLINK_ROUTE, 1<<(unix.RTNLGRP_LINK-1) | 1<<(unix.RTNLGRP_IPV4_IFADDR-1) |
		1<<(unix.RTNLGRP_IPV6_IFADDR-1) | 1<<(unix.RTNLGRP_IPV4_ROUTE-1) | 1<<(unix.RTNLGRP_IPV6_ROUTE-1)}
	// Paths: Routes, where neighbours are, those of Ethernet bridges and VXLAN
	// included, and what of the settings of interfaces is told of: forwarding,
	// rp_filter, proxy_arp.
	Paths = Topic{"interfaces, routes and neighbours", unix.NETLINK_ROUTE, Routes.groups | 1<<(unix.RTNLGRP_NEIGH-1) |
		1<<(unix.RTNLGRP_IPV4_NETCONF-1) | 1<<(unix.RTNLGRP_IPV6_NETCONF-1)}
)

// Notices are subscriptions.
type Notices struct {
	// C says that there was news since it was last read; what it is has to be
	// looked up. It is closed when there will be none any more. Of Subscribe only.
	C <-chan struct{}

	heard   atomic.Uint32 // bits of topics of which there was news since Only
	topics  []Topic
	sockets []*os.File // of each topic
	readers sync.WaitGroup
	ended   chan struct{} // closed after the last reader
}

// Subscribe begins to listen in the namespace. Close it.
func Subscribe(ns *os.File, topics ...Topic) (*Notices, error) {
	news := make(chan struct{}, 1)
	n := &Notices{C: news}
	err := n.listen(ns, func(t Topic, _ []byte) {
		n.heard.Or(n.bit(t))
		select {
		case news <- struct{}{}:
		default: // one is waiting already
		}
	}, func() { close(news) }, topics)
	if err != nil {
		return nil, err
	}
	return n, nil
}

// Only reports whether all news since it was last asked was of this topic. Whoever
// asks has then to look at that topic alone. Of Subscribe only.
func (n *Notices) Only(t Topic) bool { return n.heard.Swap(0)&^n.bit(t) == 0 }

func (n *Notices) bit(t Topic) uint32 { return 1 << slices.Index(n.topics, t) }

// Listen calls news with each datagram of notices, with nil where some were lost;
// b is not to be kept. Calls come from one goroutine a topic. After the last one
// ended is called, once: after Close, or when the kernel hung up. Close it.
func Listen(ns *os.File, news func(t Topic, b []byte), ended func(), topics ...Topic) (*Notices, error) {
	n := &Notices{}
	if err := n.listen(ns, news, ended, topics); err != nil {
		return nil, err
	}
	return n, nil
}

func (n *Notices) listen(ns *os.File, news func(t Topic, b []byte), ended func(), topics []Topic) error {
	n.topics, n.ended = topics, make(chan struct{})
	err := InNetns(ns, func() error {
		for _, t := range topics {
			fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, t.protocol)
			if err != nil {
				return fmt.Errorf("subscribe to %s: %w", t.name, err)
			}
			if err := unix.Bind(fd, &unix.SockaddrNetlink{Family: unix.AF_NETLINK, Groups: t.groups}); err != nil {
				unix.Close(fd)
				return fmt.Errorf("subscribe to %s: %w", t.name, err)
			}
			n.sockets = append(n.sockets, os.NewFile(uintptr(fd), t.name+" notices"))
		}
		return nil
	})
	if err != nil {
		n.hangUp()
		return err
	}
	for i, f := range n.sockets {
		n.readers.Go(func() { n.read(f, func(b []byte) { news(topics[i], b) }) })
	}
	go func() {
		n.readers.Wait()
		ended()
		close(n.ended)
	}()
	return nil
}

// read passes on what there is. Should it have to end, all do.
func (n *Notices) read(f *os.File, news func(b []byte)) {
	defer n.hangUp()
	buf := make([]byte, noticeBytes)
	for {
		k, err := f.Read(buf)
		switch {
		case errors.Is(err, unix.ENOBUFS), err == nil && k == len(buf):
			news(nil)
		case err != nil:
			return
		default:
			news(buf[:k])
		}
	}
}

// Mute makes the kernel say nothing of the topic until listen is called: it then
// need not write down what the caller does itself.
func (n *Notices) Mute(t Topic) (listen func() error, err error) {
	i := slices.Index(n.topics, t)
	if i < 0 {
		return nil, fmt.Errorf("nobody listens to %s", t.name)
	}
	conn, err := n.sockets[i].SyscallConn()
	if err != nil {
		return nil, err
	}
	join := func(option int) error {
		var failed error
		err := conn.Control(func(fd uintptr) {
			for group := 1; t.groups>>(group-1) != 0; group++ {
				if t.groups>>(group-1)&1 != 0 {
					failed = OneLine(failed, unix.SetsockoptInt(int(fd), unix.SOL_NETLINK, option, group))
				}
			}
		})
		if err = OneLine(err, failed); err != nil {
			return fmt.Errorf("listen to %s: %w", t.name, err)
		}
		return nil
	}
	return func() error { return join(unix.NETLINK_ADD_MEMBERSHIP) }, join(unix.NETLINK_DROP_MEMBERSHIP)
}

// Ignore makes the kernel say nothing of what is done by the socket of this port:
// to be told of ten thousand routes that one made takes a tenth of making them.
func (n *Notices) Ignore(t Topic, port uint32) error {
	i := slices.Index(n.topics, t)
	if i < 0 {
		return fmt.Errorf("nobody listens to %s", t.name)
	}
	// The filter reads in network order, the header has the machine's.
	asked := binary.BigEndian.Uint32(binary.NativeEndian.AppendUint32(nil, port))
	const sender = 12 // nlmsg_pid
	program := []unix.SockFilter{
		{Code: unix.BPF_LD | unix.BPF_W | unix.BPF_ABS, K: sender},
		{Code: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, K: asked, Jf: 1},
		{Code: unix.BPF_RET | unix.BPF_K, K: 0},
		{Code: unix.BPF_RET | unix.BPF_K, K: 1<<32 - 1},
	}
	conn, err := n.sockets[i].SyscallConn()
	if err != nil {
		return err
	}
	var failed error
	err = conn.Control(func(fd uintptr) {
		failed = unix.SetsockoptSockFprog(int(fd), unix.SOL_SOCKET, unix.SO_ATTACH_FILTER, &unix.SockFprog{Len: uint16(len(program)), Filter: &program[0]})
	})
	if err = OneLine(err, failed); err != nil {
		return fmt.Errorf("listen to %s: %w", t.name, err)
	}
	return nil
}

func (n *Notices) hangUp() {
	for _, f := range n.sockets {
		f.Close()
	}
}

// Close ends the subscriptions and their readers.
func (n *Notices) Close() {
	n.hangUp()
	<-n.ended
}
