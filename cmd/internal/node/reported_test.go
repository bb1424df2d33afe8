package node

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/redoubt-cluster/redoubt/scheduler/schedulerpb"
)

// TestAwaitReport: the wait ends with the report that has the new digest, and
// not with one that still has the old.
func TestAwaitReport(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var r reported
		say := func(digest string) { r.set(&schedulerpb.NodeDescription{LoadedImages: map[string]string{"a": digest}}) }
		begun, done := time.Now(), make(chan time.Duration)
		go func() {
			r.await(t.Context(), map[string]string{"a": "new"}, 5*time.Second)
			done <- time.Since(begun)
		}()
		say("old")
		time.Sleep(time.Second)
		say("old")
		time.Sleep(time.Second)
		say("new")
		if took := <-done; took != 2*time.Second {
			t.Errorf("returned after %v", took)
		}
		begun = time.Now()
		r.await(t.Context(), map[string]string{"b": "never told"}, 5*time.Second)
		if took := time.Since(begun); took != 5*time.Second {
			t.Errorf("gave up after %v", took)
		}
	})
}
