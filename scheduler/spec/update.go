package spec

import (
	"cmp"
	"fmt"
	"slices"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/redoubt-cluster/redoubt/scheduler/schedulerpb"
	"github.com/redoubt-cluster/redoubt/scheduler/taskpb"
)

// Short names of what happens to an update that fails.
const (
	ActionPause    = schedulerpb.UpdateConfig_FAILURE_ACTION_PAUSE
	ActionContinue = schedulerpb.UpdateConfig_FAILURE_ACTION_CONTINUE
	ActionRollback = schedulerpb.UpdateConfig_FAILURE_ACTION_ROLLBACK
	StartFirst     = schedulerpb.UpdateConfig_ORDER_START_FIRST
	StopFirst      = schedulerpb.UpdateConfig_ORDER_STOP_FIRST
)

// EffectiveUpdate returns how tasks are replaced by c, with all defaults; nil is a
// service that does not say.
func EffectiveUpdate(c *schedulerpb.UpdateConfig) *schedulerpb.UpdateConfig {
	if c == nil {
		c = &schedulerpb.UpdateConfig{Parallelism: DefaultParallelism}
	}
	c = proto.CloneOf(c)
	normalizeUpdate(c)
	return c
}

func normalizeUpdate(c *schedulerpb.UpdateConfig) {
	if c == nil {
		return
	}
	if c.MonitorNs == 0 {
		c.MonitorNs = int64(DefaultMonitor)
	}
	c.FailureAction = cmp.Or(c.FailureAction, ActionPause)
	c.Order = cmp.Or(c.Order, StopFirst)
}

func validateUpdates(s *schedulerpb.ServiceSpec) error {
	if err := validateUpdate("update", s.GetUpdate()); err != nil {
		return err
	}
	if err := validateUpdate("rollback", s.GetRollback()); err != nil {
		return err
	}
	if s.GetRollback().GetFailureAction() == ActionRollback {
		return fmt.Errorf("rollback failure action is rollback: use pause or continue")
	}
	for _, c := range []*schedulerpb.UpdateConfig{s.GetUpdate(), s.GetRollback()} {
		if c.GetOrder() == StartFirst && PerNode(s) && slices.ContainsFunc(s.GetTask().GetPorts(), func(p *taskpb.Port) bool { return p.GetMode() == taskpb.Port_MODE_HOST }) {
			return fmt.Errorf("a global service with ports of mode host cannot be replaced start-first: the new task would wait for the port that the old one has on the same node: use stop-first")
		}
	}
	return nil
}

func validateUpdate(what string, c *schedulerpb.UpdateConfig) error {
	if c == nil {
		return nil
	}
	if n := c.GetParallelism(); n > MaxReplicas {
		return fmt.Errorf("%s parallelism is %d: use 1 to %d, or 0 for all at once", what, n, MaxReplicas)
	}
	if d := time.Duration(c.GetDelayNs()); d < 0 || d > MaxUpdateDelay {
		return fmt.Errorf("%s delay is %v: use 0s to %v", what, d, MaxUpdateDelay)
	}
	if d := time.Duration(c.GetMonitorNs()); d < 0 || d > MaxMonitor {
		return fmt.Errorf("%s monitor is %v: use up to %v, or 0s for the default of %v", what, d, MaxMonitor, DefaultMonitor)
	}
	if r := c.GetMaxFailureRatio(); !(r >= 0 && r <= 1) { // also what is no number
		return fmt.Errorf("%s max failure ratio is %v: use 0 to 1", what, r)
	}
	switch c.GetFailureAction() {
	case ActionPause, ActionContinue, ActionRollback:
	default:
		return fmt.Errorf("%s failure action is unknown: use pause, continue or rollback", what)
	}
	switch c.GetOrder() {
	case StartFirst, StopFirst:
	default:
		return fmt.Errorf("%s order is unknown: use stop-first or start-first", what)
	}
	return nil
}
