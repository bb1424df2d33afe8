package ingress

import (
	"os"
	"strings"
	"testing"

	"github.com/redoubt-cluster/redoubt/mesh/netd/internal/kernel"
	"github.com/redoubt-cluster/redoubt/mesh/netd/internal/netlab"
)

// says6 reads settings of the node, all of IPv6.
func (n *node) says6(names ...string) (out string) {
	netlab.Within(n.lab.t, n.ns, func() error {
		for _, name := range names {
			b, err := os.ReadFile(conf6 + "/" + name)
			if err != nil {
				return err
			}
			out += strings.TrimSpace(string(b))
		}
		return nil
	})
	return out
}

func (n *node) guarded() bool {
	n.in.mu.Lock()
	defer n.in.mu.Unlock()
	return n.in.guarded
}

// A node that routed no IPv6 does so for published ports alone, goes on to learn
// from routers, and routes none again when the last port is gone.
func TestIPv6IsRoutedForTasksAlone(t *testing.T) {
	l := newLab(t, 2)
	a, b := l.nodes[0], l.nodes[1]
	settings := []string{"all/forwarding", "default/forwarding", "u0/forwarding", "u0/accept_ra"}
	netlab.Within(t, b.ns, func() error { _, err := kernel.SetSysctl("1", "ipv6/conf/all/forwarding"); return err })
	router := b.says6(settings...)
	if was := a.says6(settings...); was != "0001" {
		t.Fatalf("a host says %s", was)
	}
	p := newPublished(a.task(1), b.task(2))
	l.publish(l.nodes, p)
	if is := a.says6(settings...); is != "1001" {
		t.Errorf("an entry node that was a host says %s", is)
	}
	if is := b.says6(settings...); is != router {
		t.Errorf("one that was a router says %s, not %s", is, router)
	}
	if !a.guarded() || b.guarded() {
		t.Errorf("guarded: %v, %v", a.guarded(), b.guarded())
	}
	// What one process began, the next goes on with.
	a.stop()
	a.start()
	a.gen = 1
	if bad := a.declare(a.request(l.nodes, p)); len(bad) > 0 || !a.guarded() {
		t.Errorf("after a restart: %v, guarded %v", bad, a.guarded())
	}
	for range 2 {
		l.mustAsk("tcp", "["+a.under6()+"]:8080")
	}
	for _, n := range l.nodes {
		if bad := n.declare(n.request(nil)); len(bad) > 0 {
			t.Error(bad)
		}
	}
	if is := a.says6(settings...); is != "0001" {
		t.Errorf("without ports it says %s", is)
	}
	if is := b.says6(settings...); is != router {
		t.Errorf("without ports the router says %s, not %s", is, router)
	}
}
