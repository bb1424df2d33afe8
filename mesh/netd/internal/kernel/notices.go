package kernel

import (
	"errors"
	"fmt"
	"os"
	"sync"

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
)

// Notices are subscriptions. What the news is has to be looked up: C only says
// that there was some since it was last read, and is closed when there will be
// none any more.
type Notices struct {
	C <-chan struct{}

	news    chan struct{} // closed by the last reader
	sockets []*os.File
	readers sync.WaitGroup
}

// Subscribe begins to listen in the namespace. Close it.
func Subscribe(ns *os.File, topics ...Topic) (*Notices, error) {
	n := &Notices{news: make(chan struct{}, 1)}
	n.C = n.news
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
	for _, f := range n.sockets {
		n.readers.Go(func() { n.read(f) })
	}
	go func() {
		n.readers.Wait()
		close(n.news)
	}()
	return n, nil
}

// read passes on that there was news. Should it have to end, all do.
func (n *Notices) read(f *os.File) {
	defer n.hangUp()
	buf := make([]byte, 1<<16)
	for {
		_, err := f.Read(buf)
		// ENOBUFS: so much news that some was lost.
		if err != nil && !errors.Is(err, unix.ENOBUFS) {
			return
		}
		select {
		case n.news <- struct{}{}:
		default: // one is waiting already
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
	for range n.C {
	}
}
