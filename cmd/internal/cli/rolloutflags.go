package cli

import (
	"fmt"
	"strings"
	"time"

	"github.com/spf13/pflag"

	"github.com/redoubt-cluster/redoubt/scheduler/schedulerpb"
	"github.com/redoubt-cluster/redoubt/scheduler/spec"
)

// rolloutFlags say how tasks are replaced: --update-… when a service is changed,
// --rollback-… when it goes back.
type rolloutFlags struct {
	update, rollback configFlags
}

func (r *rolloutFlags) add(f *pflag.FlagSet) {
	r.update.add(f, "update", "pause, continue or rollback (default pause)")
	r.rollback.add(f, "rollback", "pause or continue (default pause)")
}

func (r *rolloutFlags) apply(f *pflag.FlagSet, s *schedulerpb.ServiceSpec) error {
	if r.rollback.action.value == spec.ActionRollback {
		return usagef("--rollback-failure-action rollback: use pause or continue")
	}
	s.Update = r.update.apply(f, s.Update)
	s.Rollback = r.rollback.apply(f, s.Rollback)
	return nil
}

type configFlags struct {
	prefix         string
	parallelism    uint64
	delay, monitor nonNegative
	ratio          ratio
	action         failureAction
	order          updateOrder
}

func (c *configFlags) add(f *pflag.FlagSet, prefix, actions string) {
	c.prefix = prefix + "-"
	f.Uint64Var(&c.parallelism, c.prefix+"parallelism", spec.DefaultParallelism, prefix+": how many tasks are replaced at a time (0: all)")
	f.Var(&c.delay, c.prefix+"delay", prefix+": pause between a task that serves and the next one's turn")
	f.Var(&c.monitor, c.prefix+"monitor", prefix+": how long a new task is watched, and fails the "+prefix+" by ending (default 5s)")
	f.Var(&c.ratio, c.prefix+"max-failure-ratio", prefix+": part of the tasks that may fail, 0 to 1 (default 0)")
	f.Var(&c.action, c.prefix+"failure-action", prefix+": what then happens: "+actions)
	f.Var(&c.order, c.prefix+"order", prefix+": stop-first, or start-first for new tasks beside the old ones (default stop-first)")
}

// apply changes old by the flags that were given.
func (c *configFlags) apply(f *pflag.FlagSet, old *schedulerpb.UpdateConfig) *schedulerpb.UpdateConfig {
	given := false
	f.Visit(func(g *pflag.Flag) { given = given || c.has(g.Name) })
	if !given {
		return old
	}
	n := spec.EffectiveUpdate(old)
	set := func(name string, do func()) {
		if f.Changed(c.prefix + name) {
			do()
		}
	}
	set("parallelism", func() { n.Parallelism = c.parallelism })
	set("delay", func() { n.DelayNs = int64(c.delay) })
	set("monitor", func() { n.MonitorNs = int64(c.monitor) })
	set("max-failure-ratio", func() { n.MaxFailureRatio = float32(c.ratio) })
	set("failure-action", func() { n.FailureAction = c.action.value })
	set("order", func() { n.Order = c.order.value })
	return n
}

func (c *configFlags) has(name string) bool {
	rest, ok := strings.CutPrefix(name, c.prefix)
	switch rest {
	case "parallelism", "delay", "monitor", "max-failure-ratio", "failure-action", "order":
		return ok
	}
	return false
}

// configText is a config for people.
func configText(c *schedulerpb.UpdateConfig) string {
	n := spec.EffectiveUpdate(c)
	at := "all at once"
	if n.Parallelism > 0 {
		at = fmt.Sprintf("%d at a time", n.Parallelism)
	}
	text := fmt.Sprintf("%s, %s", at, orderName(n.Order))
	if n.DelayNs > 0 {
		text += fmt.Sprintf(", %v between", time.Duration(n.DelayNs))
	}
	text += fmt.Sprintf(", watched for %v, %s", time.Duration(n.MonitorNs), enumName(n.FailureAction, "FAILURE_ACTION_"))
	if n.MaxFailureRatio > 0 {
		return text + fmt.Sprintf(" after more than %g of the tasks fail", n.MaxFailureRatio)
	}
	return text + " after a failure"
}

func orderName(o schedulerpb.UpdateConfig_Order) string {
	if o == spec.StartFirst {
		return "start-first"
	}
	return "stop-first"
}

type ratio float32

func (r *ratio) Type() string   { return "ratio" }
func (r *ratio) String() string { return fmt.Sprint(float32(*r)) }
func (r *ratio) Set(s string) error {
	var v float32
	if _, err := fmt.Sscanf(s+"\n", "%f\n", &v); err != nil || !(v >= 0 && v <= 1) {
		return fmt.Errorf("write a part of the whole, 0 to 1, as 0.2")
	}
	*r = ratio(v)
	return nil
}

type failureAction struct {
	value schedulerpb.UpdateConfig_FailureAction
}

func (a *failureAction) Type() string   { return "action" }
func (a *failureAction) String() string { return "" }
func (a *failureAction) Set(s string) error {
	switch s {
	case "pause":
		a.value = spec.ActionPause
	case "continue":
		a.value = spec.ActionContinue
	case "rollback":
		a.value = spec.ActionRollback
	default:
		return fmt.Errorf("use pause, continue or rollback")
	}
	return nil
}

type updateOrder struct {
	value schedulerpb.UpdateConfig_Order
}

func (o *updateOrder) Type() string   { return "order" }
func (o *updateOrder) String() string { return "" }
func (o *updateOrder) Set(s string) error {
	switch s {
	case "start-first":
		o.value = spec.StartFirst
	case "stop-first":
		o.value = spec.StopFirst
	default:
		return fmt.Errorf("use stop-first or start-first")
	}
	return nil
}
