package rules

import (
	"net"
	"testing"
	"time"
)

// Whoever opens too many connections gets no more, and neither do those behind
// another node; the others, and what stands, go on, and what was ended makes room.
func TestConnectionsAreBounded(t *testing.T) {
	t.Parallel()
	const most = 6
	l := newLab(t, 2)
	greedy, modest := l.nodes[0].box("a"), l.nodes[0].box("a")
	server := l.nodes[1].box("b")
	server.serve(80)
	// The second node bounds what comes from the first.
	for i, n := range l.nodes {
		few := bounds{endpoint: bound{most, 1000, 1000}, node: bound{1000, 1000, 1000}}
		if i == 1 {
			few = bounds{endpoint: bound{1000, 1000, 1000}, node: bound{2 * most, 1000, 1000}}
		}
		n.table.bounds = &few
	}
	l.set()
	count := func(b *box, tries int) (flows []*flow) {
		t.Helper()
		for range tries {
			f, err := b.dial("tcp", server.addr4, 80, silence)
			if err == nil {
				flows = append(flows, f)
			} else if e, ok := err.(net.Error); !ok || !e.Timeout() {
				t.Fatal(err)
			}
		}
		return flows
	}
	dropped := func(n int) uint64 { _, d := l.nodes[n].counters(); return d[droppedBound] }
	open := count(greedy, most+3)
	if len(open) != most || dropped(0) < 3 || dropped(1) != 0 {
		t.Errorf("%d open of %d tries, want %d; %d and %d dropped", len(open), most+3, most, dropped(0), dropped(1))
	}
	if got := count(modest, 2); len(got) != 2 {
		t.Errorf("another has %d of 2", len(got))
	}
	for _, f := range open {
		if err := f.works(deadline); err != nil {
			t.Errorf("what stood before: %v", err)
		}
	}
	// Ping of the gateway is tracked too.
	if _, err := greedy.dial("udp", server.addr6, 80, silence); err == nil {
		t.Error("the other family is counted by itself")
	}
	third, fourth := l.nodes[0].box("a"), l.nodes[0].box("a")
	l.set()
	if a, b := count(third, most), count(fourth, most); len(a)+len(b) > 2*most-8 || dropped(1) == 0 {
		t.Errorf("the second node let %d more of the first in, want %d (%d dropped)", len(a)+len(b), 2*most-8, dropped(1))
	}
}

// The rate is bounded too, of connections that nobody has open any more.
func TestNewConnectionsAreBoundedInRate(t *testing.T) {
	t.Parallel()
	l := newLab(t, 1)
	greedy, server := l.nodes[0].box("a"), l.nodes[0].box("b")
	server.serve(80)
	l.nodes[0].table.bounds = &bounds{endpoint: bound{1000, 2, 5}, node: bound{1000, 1000, 1000}}
	l.set()
	began, got := time.Now(), 0
	for range 12 {
		if f, err := greedy.dial("tcp", server.addr4, 80, silence); err == nil {
			got++
			f.Close()
		}
	}
	// The burst, and what came since.
	if most := 6 + 2*int(time.Since(began).Seconds()+1); got < 5 || got > most {
		t.Errorf("%d connections, want 5 to %d", got, most)
	}
}
