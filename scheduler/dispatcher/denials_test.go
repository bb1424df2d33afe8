package dispatcher

import (
	"bytes"
	"testing"
	"testing/synctest"
	"time"

	"github.com/redoubt-cluster/redoubt/internal/ident"
	"github.com/redoubt-cluster/redoubt/pki"
	"github.com/redoubt-cluster/redoubt/pki/profile"
	"github.com/redoubt-cluster/redoubt/raftstore"
	"github.com/redoubt-cluster/redoubt/scheduler/schedulerpb"
)

// denied is what a session was last told of revoked identities; nil: nothing. It
// fails where assignments came first.
func (c *client) denied(t *testing.T) *schedulerpb.Denials {
	t.Helper()
	synctest.Wait()
	c.mu.Lock()
	defer c.mu.Unlock()
	var last *schedulerpb.Denials
	for _, m := range c.got {
		if m.GetAssignments() != nil && last == nil {
			t.Error("tasks were assigned before it was said which identities are revoked")
		}
		if d := m.GetDenials(); d != nil {
			last = d
		}
	}
	return last
}

// TestDenialsArePushed: each session is told at once which workload identities are
// revoked, and one that begins before its assignments.
func TestDenialsArePushed(t *testing.T) {
	inWorld(t, func(w *world) {
		node := w.addNode()
		w.lead()
		w.addTask(node)
		c := w.session(node)
		if d := c.denied(t); d == nil || len(d.Denials) != 0 {
			t.Fatalf("nothing is revoked, and it was told %v", d)
		}
		id := profile.ServiceURI(ident.New(), "", "web").String()
		hash := pki.HashIdentity(id)
		w.update(func(tx *raftstore.Tx) error { _, _, err := pki.DenyIdentity(tx, id); return err })
		w.settle(100 * time.Millisecond)
		if d := c.denied(t).GetDenials(); len(d) != 1 || !bytes.Equal(d[0].IdHash, hash[:]) || d[0].Before != 0 {
			t.Fatalf("it was told %v", d)
		}
		later := w.session(w.addNode())
		if d := later.denied(t).GetDenials(); len(d) != 1 {
			t.Errorf("a later session was told %v", d)
		}
		w.update(func(tx *raftstore.Tx) error { _, err := pki.AllowIdentity(tx, id); return err })
		w.settle(100 * time.Millisecond)
		for _, c := range []*client{c, later} {
			if d := c.denied(t).GetDenials(); len(d) != 1 || d[0].Before == 0 {
				t.Errorf("allowed again, and it was told %v", d)
			}
		}
	})
}
