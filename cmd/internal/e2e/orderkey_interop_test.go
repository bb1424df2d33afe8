//go:build interop

package e2e

import (
	"strings"
	"testing"
	"time"
)

// TestInteropExternalOrderKey demotes a manager while a real step-ca signs workers: it
// knew the key of orders. That the step-ca needs another one is said by the command and
// by status at once, and no root is replaced, until it has it; then the one that was
// demoted is a worker by it.
func TestInteropExternalOrderKey(t *testing.T) {
	t.Parallel()
	c := up(t, "orderkey", 2, 1)
	const m, demoted, w = "manager-1", "manager-2", "worker-1"
	s := newStepCA(c, w)
	before := c.ok(m, "ca", "external", "provisioner")
	s.start(before)
	s.set(m)
	if why := s.signed(w); why != "" {
		t.Fatal(why)
	}

	if out := c.ok(m, "node", "demote", demoted); !strings.Contains(out, "The CA at "+s.url+" knows the key of orders of before") {
		t.Errorf("node demote: %s", out)
	}
	if out := c.on(m, "status").String(); !strings.Contains(out, "redoubt ca external provisioner") {
		t.Errorf("status: %s", out)
	}
	if out := c.ok(m, "events", "--since", "5m", "--until", "0s", "--filter", "type=ca"); !strings.Contains(out, "external-failing") {
		t.Errorf("there is no event: %s", out)
	}
	c.refused(m, 1, "the external CA certifies no worker", nil, "ca", "rotate", "--root")
	if s.signed(demoted) == "" {
		t.Error("the step-ca takes an order of a key that it was not given")
	}
	c.wantState(w, "ready")

	// What the cluster prints now is another key. With it the step-ca signs again.
	after := c.ok(m, "ca", "external", "provisioner")
	if after == before {
		t.Fatal("the key of orders is the one of before")
	}
	s.stop()
	s.start(after)
	s.set(m)
	for _, h := range []string{w, demoted} {
		eventually(t, time.Minute, func() string { return s.signed(h) })
		c.wantState(h, "ready")
	}
	if out := c.on(m, "status").String() + c.ok(m, "ca", "external", "show"); strings.Contains(out, "redoubt ca external provisioner") || strings.Contains(out, "FAILING") {
		t.Errorf("it signs again: %s", out)
	}
	if out := c.ok(m, "ca", "rotate", "--root"); !strings.Contains(out, "Every connected node") {
		t.Errorf("ca rotate --root: %s", out)
	}
}
