package netd

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// Run keeps the state in force until ctx ends: it puts back what is changed by
// hand. The state stays in the kernel.
func (n *Node) Run(ctx context.Context) error {
	if err := n.adopt(); err != nil {
		return fmt.Errorf("secure the bridge that was found: %w", err)
	}
	notices, err := n.subscribe()
	if err != nil {
		return err
	}
	news := make(chan struct{}, 1) // closed by the reader
	go read(notices, news)
	// Closing the socket ends the reader, which closes the channel.
	defer func() {
		notices.Close()
		for range news {
		}
	}()
	tick := time.NewTicker(repairEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-tick.C:
		case _, ok := <-news:
			if !ok {
				return errors.New("the kernel's notices about nftables ended")
			}
			select { // let a series of changes end
			case <-ctx.Done():
				return ctx.Err()
			case <-time.After(repairSettle):
			}
		}
		n.repair(ctx)
	}
}

// adopt denies everything on a bridge that has lost its rules while no netd
// ran.
func (n *Node) adopt() error {
	n.mu.Lock()
	defer n.mu.Unlock()
	return withRoutes(n.ns, func(h *netlink.Handle) error {
		link, err := findLink(h, bridgeName)
		if err != nil || link == nil {
			return err
		}
		opened, found, err := readOpened()
		if err != nil || found {
			return err
		}
		n.log.Warn("the bridge has lost its rules: denying everything until the desired state is known")
		open, bridges, err := uplinks(h, opened, false)
		if err != nil {
			return err
		}
		if _, _, err := commit(ruleset{opened: open, bridges: bridges}, nil); err != nil {
			return err
		}
		n.repairs++
		return nil
	})
}

// repair compares and puts back.
func (n *Node) repair(ctx context.Context) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.generation == 0 || !n.plan.bridge.IsValid() || ctx.Err() != nil {
		return
	}
	bad, changes, err := n.reconcile(ctx, n.plan, false)
	if err != nil {
		if ctx.Err() == nil {
			n.log.Error("network state not restored; it is tried again", "err", err)
		}
		return
	}
	for task, err := range bad {
		if n.bad[task] == nil || n.bad[task].Error() != err.Error() {
			n.log.Warn("endpoint lost", "task", task, "err", err)
		}
	}
	n.bad = bad
	if len(changes) > 0 {
		n.repairs++
		n.log.Warn("network state was changed by somebody and is restored", "changes", changes)
	}
}

// subscribe opens a socket on which the kernel tells of every change to the
// node's nftables.
func (n *Node) subscribe() (f *os.File, err error) {
	err = inNetns(n.ns, func() error {
		fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, unix.NETLINK_NETFILTER)
		if err != nil {
			return err
		}
		if err := unix.Bind(fd, &unix.SockaddrNetlink{Family: unix.AF_NETLINK, Groups: 1 << (unix.NFNLGRP_NFTABLES - 1)}); err != nil {
			unix.Close(fd)
			return err
		}
		f = os.NewFile(uintptr(fd), "nftables notices")
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("subscribe to nftables: %w", err)
	}
	return f, nil
}

// read passes on that there was news; what it was is looked up. It owns news.
func read(f *os.File, news chan<- struct{}) {
	defer close(news)
	buf := make([]byte, 1<<16)
	for {
		_, err := f.Read(buf)
		// ENOBUFS: so much news that some was lost.
		if err != nil && !errors.Is(err, unix.ENOBUFS) {
			return
		}
		select {
		case news <- struct{}{}:
		default: // one is waiting already
		}
	}
}
