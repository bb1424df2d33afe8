package control

import (
	"context"
	"fmt"
	"slices"
)

// checkSignedTask holds what runs against what deployers signed.
func checkSignedTask(c Container, found *Found) {
	if c.PID != 0 && c.Unsigned != "" {
		found.Against("task %s of %s runs: %s", c.Task, c.Image, c.Unsigned)
	}
}

// checkLockKept: whom rund does not trust now, it would when it starts.
func checkLockKept(_ context.Context, n *Node, found *Found) error {
	found.Looked()
	if l := n.Lock(); l.Changed != "" {
		found.Against("%s", l.Changed)
	}
	return nil
}

// checkLockAgreed: a node that lacks the lock is where a manager that was taken over
// starts what it likes, and one with an older link takes what a key signs that counts no
// more.
func checkLockAgreed(_ context.Context, c *Cluster, found *Found) error {
	if !slices.ContainsFunc(c.Members, func(m Member) bool { return m.Lock != "" }) {
		return notApplicable("no node has a deployment lock")
	}
	silent, by := []string{}, map[string][]string{}
	for _, m := range c.Members {
		if !m.Probed {
			if m.Connected {
				silent = append(silent, m.Name)
			}
			continue
		}
		found.Looked()
		switch {
		case m.Lock == "":
			found.Against("%s has no deployment lock", m.Name)
		case m.Waits: // for the chain, and runs nothing until then
		default:
			by[m.Lock] = append(by[m.Lock], m.Name)
		}
	}
	if len(by) > 1 {
		for _, chain := range sorted(by) {
			found.Against("%s: %s", some3(by[chain]), chain)
		}
	}
	if len(silent) > 0 && len(found.against) == 0 {
		return fmt.Errorf("%s did not say yet whether they have the lock", some3(silent))
	}
	return nil
}

// checkImagesSigned: what the cluster's policy admits by its name alone, anybody gets to
// run who may write to that registry.
func checkImagesSigned(_ context.Context, c *Cluster, found *Found) error {
	if c.ImagesUnread != nil {
		return c.ImagesUnread
	}
	if len(c.ImageRules) == 0 {
		return notApplicable("the cluster has no image policy")
	}
	for _, r := range c.ImageRules {
		found.Looked()
		if r.Unsigned {
			found.Against("rule %s of the image policy admits what nobody signed", r.Name)
		}
	}
	return nil
}
