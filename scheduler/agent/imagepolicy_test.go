package agent_test

import (
	"testing"
	"time"

	"github.com/redoubt-cluster/redoubt/scheduler/imagepolicy"
	"github.com/redoubt-cluster/redoubt/scheduler/schedulerpb"
)

// TestImagePolicyBeforeTasks: rund has the policy with the first tasks that come after
// it, every change of it without one, and keeps it when the manager goes.
func TestImagePolicyBeforeTasks(t *testing.T) {
	each(t, func(n *node) {
		say := func(document string) {
			n.manager.Send(&schedulerpb.ManagerMessage{Message: &schedulerpb.ManagerMessage_ImagePolicy{
				ImagePolicy: &schedulerpb.ImagePolicyInForce{Document: []byte(document)},
			}})
		}
		said := func(want string) {
			t.Helper()
			if have := n.rund.ImagePolicy(); have != want {
				t.Errorf("rund was told %.40q, want %.40q", have, want)
			}
		}
		n.settle(5 * time.Second)
		say("first")
		a := assignment(running)
		n.manager.Assign(a)
		n.settle(5 * time.Second)
		n.want(a.TaskId, running)
		said("first")
		say("second")
		n.settle(5 * time.Second)
		said("second")
		n.manager.SetDown(true)
		n.settle(time.Minute)
		said("second")
		n.manager.SetDown(false)
		n.settle(time.Minute)
		// One that is too large ends the session and changes nothing.
		opened := n.manager.Opened()
		say(string(make([]byte, imagepolicy.MaxDocument+1)))
		n.settle(time.Minute)
		said("second")
		if n.manager.Opened() == opened {
			t.Error("the session goes on")
		}
		say("")
		n.settle(5 * time.Second)
		said("")
	})
}
