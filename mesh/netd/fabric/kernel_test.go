//go:build kernelvm

package fabric

import (
	"testing"

	"github.com/redoubt-cluster/redoubt/mesh/netd/fasttap"
)

// Nodes whose kernel has WireGuard and nodes whose kernel has not are of one
// mesh, through key changes and restarts of either.
func TestKernelSpeaksToEmbedded(t *testing.T) {
	l := newLabOf(t, 0, fasttap.Batch, fasttap.Stock, 0)
	l.connect()
	for i, want := range []string{driverKernel, driverEmbedded, driverEmbedded, driverKernel} {
		if s := l.nodes[i].state(); s.GetDriver() != want {
			t.Fatalf("node %d has the %s driver (mode %s), want %s", i+1, s.GetDriver(), s.GetMode(), want)
		}
	}
	l.overlays(4097)
	everybody := func() {
		t.Helper()
		for _, n := range l.nodes {
			for _, o := range l.others(n) {
				n.bulk(o, 256<<10)
			}
		}
	}
	for _, n := range l.nodes {
		n.echo()
	}
	everybody()

	kernel, embedded := l.nodes[0], l.nodes[1]
	for _, n := range []*node{kernel, embedded} {
		next := n.rotate()
		l.announce(n, next)
		n.turn(next, l.others(n)...)
		n.stop()
		n.start()
		l.connect()
	}
	everybody()
	for _, n := range l.nodes {
		for reason, k := range n.state().GetDropped() {
			if k > 0 && reason != droppedSent {
				t.Errorf("node %d: %d packets dropped as %s", n.i, k, reason)
			}
		}
	}
}
