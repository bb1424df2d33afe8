package agent

import (
	"bytes"
	"fmt"
	"time"

	"github.com/redoubt-cluster/redoubt/scheduler/imagepolicy"
	"github.com/redoubt-cluster/redoubt/scheduler/schedulerpb"
)

// takeImagePolicy passes the cluster's image policy on to rund, with the tasks that
// are said after it.
func (s *session) takeImagePolicy(m *schedulerpb.ImagePolicyInForce) error {
	if n := len(m.GetDocument()); n > imagepolicy.MaxDocument {
		return fmt.Errorf("the manager sent an image policy of %d bytes: at most %d are allowed", n, imagepolicy.MaxDocument)
	}
	return s.input(func(mc *machine, _ time.Time) error {
		mc.again = mc.again || !bytes.Equal(mc.policy, m.GetDocument())
		mc.policy = m.GetDocument()
		return nil
	})
}
