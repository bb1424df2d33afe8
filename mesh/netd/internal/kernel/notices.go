package kernel

import (
	"errors"
	"fmt"
	"os"
	"sync"

	"golang.org/x/sys/unix"
)

// noticeBytes is more than most notices have, and little enough for thousands of
// subscriptions. Of a larger one it is known that it came.
const noticeBytes = 4 << 10

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
	// Paths: Routes, and where neighbours are, those of Ethernet bridges and
	// VXLAN included.
	Paths = Topic{"interfaces, routes and neighbours", unix.NETLINK_ROUTE, Routes.groups | 1<<(unix.RTNLGRP_NEIGH-1)}
)

// Notices are subscriptions.
type Notices struct {
	// C says that there was news since it was last read; what it is has to be
	// looked up. It is closed when there will be none any more. Of Subscribe only.
	C <-chan struct{}

	sockets []*os.File
	readers sync.WaitGroup
	ended   chan struct{} // closed after the last reader
}

// Subscribe begins to listen in the namespace. Close it.
func Subscribe(ns *os.File, topics ...Topic) (*Notices, error) {
	news := make(chan struct{}, 1)
	n, err := Listen(ns, func(Topic, []byte) {
		select {
		case news <- struct{}{}:
		default: // one is waiting already
		}
	}, func() { close(news) }, topics...)
	if err != nil {
		return nil, err
	}
	n.C = news
	return n, nil
}

// Listen calls news with each datagram of notices, with nil where some were lost;
// b is not to be kept. Calls come from one goroutine a topic. After the last one
// ended is called, once: after Close, or when the kernel hung up. Close it.
func Listen(ns *os.File, news func(t Topic, b []byte), ended func(), topics ...Topic) (*Notices, error) {
	n := &Notices{ended: make(chan struct{})}
	for _, t := range topics {
		err := InNetns(ns, func() error {
			fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, t.protocol)
			if err != nil {
				return err
			}
			if err := unix.Bind(fd, &unix.SockaddrNetlink{Family: unix.AF_NETLINK, Groups: t.groups}); err != nil {
				unix.Close(fd)
				return err
			}
			n.sockets = append(n.sockets, os.NewFile(uintptr(fd), t.name+" notices"))
			return nil
		})
		if err != nil {
			n.hangUp()
			return nil, fmt.Errorf("subscribe to %s: %w", t.name, err)
		}
	}
	for i, f := range n.sockets {
		n.readers.Go(func() { n.read(f, func(b []byte) { news(topics[i], b) }) })
	}
	go func() {
		n.readers.Wait()
		ended()
		close(n.ended)
	}()
	return n, nil
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
