package netd

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/vishvananda/netlink"

	"github.com/redoubt-cluster/redoubt/mesh/netd/internal/kernel"
)

// Run keeps the state in force until ctx ends: it puts back what is changed by
// hand. The state stays in the kernel.
func (n *Node) Run(ctx context.Context) error {
	if err := n.adopt(); err != nil {
		return fmt.Errorf("secure the bridge that was found: %w", err)
	}
	notices, err := kernel.Subscribe(n.ns, kernel.Rulesets)
	if err != nil {
		return err
	}
	defer notices.Close()
	n.repair(ctx) // of what was changed before anybody listened
	tick := time.NewTicker(repairEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-tick.C:
		case _, ok := <-notices.C:
			if !ok {
				return errors.New("the kernel's notices about nftables ended")
			}
			select { // let a series of changes end
			case <-ctx.Done():
				return ctx.Err()
			case <-time.After(repairSettle):
			}
			if n.rulesHold() {
				continue
			}
		}
		n.repair(ctx)
	}
}

// rulesHold reports whether all news of rulesets was of this process's own tables.
func (n *Node) rulesHold() bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.committed == nil || n.nf == nil {
		return false
	}
	_, ok, err := n.nf.Holds(n.gen, allTables()...)
	return ok && err == nil
}

// adopt denies everything on a bridge that has lost its rules while no netd
// ran.
func (n *Node) adopt() error {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.generation != 0 {
		return nil // the desired state is known, and is put back
	}
	return n.onNode(func(h *netlink.Handle) error {
		link, err := kernel.FindLink(h, bridgeName)
		if err != nil || link == nil {
			return err
		}
		opened, found, err := readOpened(n.nf)
		if err != nil || found {
			return err
		}
		n.log.Warn("the bridge has lost its rules: denying everything until the desired state is known")
		open, bridges, err := uplinks(h, opened, false)
		if err != nil {
			return err
		}
		if _, _, err := commit(n.nf, ruleset{opened: open, bridges: bridges}, nil); err != nil {
			return err
		}
		n.repairs++
		n.meddled.Note("table " + tableName + " was gone when netd started")
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
