package netd

import (
	"strings"
	"testing"
	"time"

	"github.com/google/nftables"

	"github.com/redoubt-cluster/redoubt/mesh/netd/internal/kernel"
	"github.com/redoubt-cluster/redoubt/mesh/netd/netdpb"
)

// netd is dead, and somebody flushes the ruleset: containers reach neither the node
// nor anybody beyond it, and nobody beyond it reaches them.
func TestNothingPassesWithoutRules(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	a := w.box(1, tcpPort(8080, 80))
	w.serve(a.ns, "tcp", "0.0.0.0:80")
	w.serve(w.outside, "tcp", outsideIP+":80")
	w.serve(w.node, "tcp", "0.0.0.0:90")
	req := w.apply(a)
	w.reaches(w.outside, "tcp", nodeIP+":8080", outsideIP)
	w.reaches(a.ns, "tcp", outsideIP+":80", nodeIP)
	w.n.Close()
	flush := func(c *nftables.Conn) error { c.FlushRuleset(); return c.Flush() }
	w.in(w.node, func() error { return kernel.WithNFT(flush) })
	w.cannotReach(a.ns, "tcp", outsideIP+":80")
	w.cannotReach(a.ns, "tcp", gatewayIP+":90")
	w.cannotReach(w.outside, "tcp", a.ip+":80")
	w.cannotReach(w.outside, "tcp", nodeIP+":8080")
	// The control: with nothing in their place, the ways are open.
	w.in(w.node, func() error { _, err := kernel.DropUnjudged(kernel.JudgedByBridge, nil); return err })
	w.reaches(a.ns, "tcp", outsideIP+":80", a.ip)
	w.reaches(a.ns, "tcp", gatewayIP+":90", a.ip)
	w.reaches(w.outside, "tcp", a.ip+":80", outsideIP)
	// The next netd closes them at its start, and opens what is published.
	w.n = w.start()
	if err := w.n.adopt(); err != nil {
		t.Fatal(err)
	}
	w.cannotReach(a.ns, "tcp", outsideIP+":80")
	now := time.Now()
	if x := w.n.rulesFeature(now); x.GetPresent() || !strings.Contains(x.GetDetail(), "table redoubt was gone when netd started; once") {
		t.Errorf("a flush is shown as %v", x)
	}
	if x := w.n.rulesFeature(now.Add(meddledFor + time.Minute)); !x.GetPresent() {
		t.Errorf("a flush of long ago is shown as %v", x)
	}
	w.mustApply(req)
	w.reaches(w.outside, "tcp", nodeIP+":8080", outsideIP)
	w.reaches(a.ns, "tcp", outsideIP+":80", nodeIP)
	w.cannotReach(a.ns, "tcp", gatewayIP+":90")
	// Policies alone are put back as well, and shown.
	w.in(w.node, func() error { _, err := kernel.DropUnjudged(kernel.JudgedByBridge, nil); return err })
	w.n.repair(t.Context())
	if x := w.n.rulesFeature(now); !strings.Contains(x.GetDetail(), "the policies of table redoubt; 2 times") {
		t.Errorf("policies that were taken away are shown as %v", x)
	}
	// What is taken away leaves nothing of it.
	w.mustApply(&netdpb.ApplyRequest{Generation: req.GetGeneration() + 1})
	w.in(w.node, func() error {
		some, err := kernel.DropUnjudged(kernel.JudgedByBridge, nil)
		if some {
			t.Error("policies are left behind")
		}
		return err
	})
}
