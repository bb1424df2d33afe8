package dispatcher

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/redoubt-cluster/redoubt/raftstore"
	"github.com/redoubt-cluster/redoubt/scheduler/schedulerpb"
	"github.com/redoubt-cluster/redoubt/scheduler/store"
)

// policies are what a session was told of the image policy, in order. It fails where
// assignments came first.
func (c *client) policies(t *testing.T) (out []string) {
	t.Helper()
	synctest.Wait()
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, m := range c.got {
		if m.GetAssignments() != nil && out == nil {
			t.Error("tasks were assigned before it was said which images may run")
		}
		if p, ok := m.Message.(*schedulerpb.ManagerMessage_ImagePolicy); ok {
			out = append(out, string(p.ImagePolicy.GetDocument()))
		}
	}
	return out
}

// TestImagePolicyBeforeTasks: each session is told the policy before its assignments,
// also that there is none, and every change of it.
func TestImagePolicyBeforeTasks(t *testing.T) {
	const policy = "format: 1\nrules:\n  - {name: all, images: ['**'], unsigned: true}\n"
	inWorld(t, func(w *world) {
		node := w.addNode()
		w.lead()
		w.addTask(node)
		c := w.session(node)
		if p := c.policies(t); len(p) != 1 || p[0] != "" {
			t.Fatalf("there is none, and it was told %q", p)
		}
		w.update(func(tx *raftstore.Tx) error { _, err := store.SetImagePolicy(tx, []byte(policy)); return err })
		w.settle(100 * time.Millisecond)
		if p := c.policies(t); len(p) != 2 || p[1] != policy {
			t.Fatalf("it was told %q", p)
		}
		later := w.session(w.addNode())
		if p := later.policies(t); len(p) != 1 || p[0] != policy {
			t.Errorf("a later session was told %q", p)
		}
		w.addTask(node)
		w.settle(100 * time.Millisecond)
		w.update(func(tx *raftstore.Tx) error { return store.ImagePolicies.Delete(tx, store.ImagePolicyID) })
		w.settle(100 * time.Millisecond)
		if p := c.policies(t); len(p) != 3 || p[2] != "" {
			t.Errorf("it was told %q", p)
		}
	})
}
