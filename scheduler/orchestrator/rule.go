package orchestrator

import (
	"cmp"
	"math"
	"time"

	"github.com/redoubt-cluster/redoubt/scheduler/schedulerpb"
	"github.com/redoubt-cluster/redoubt/scheduler/spec"
	"github.com/redoubt-cluster/redoubt/scheduler/store"
)

// rule is how a service is brought to its revision: of an update or of a rollback,
// whichever was begun last.
type rule struct {
	// active: what fails counts, and it is said when it is over. paused: no task that
	// serves is replaced.
	active, paused bool
	back           bool // it is a rollback
	startFirst     bool
	// parallelism is at least 1.
	parallelism    int
	delay, monitor time.Duration
	ratio          float32
	action         schedulerpb.UpdateConfig_FailureAction
	// since is when what fails began to count, in Unix nanoseconds.
	since int64
}

func ruleOf(s *schedulerpb.Service) rule {
	st := s.GetUpdateStatus()
	var r rule
	switch st.GetState() {
	case store.RollbackStarted, store.RollbackPaused, store.RollbackCompleted:
		r.back = true
	}
	c := s.GetSpec().GetUpdate()
	if r.back {
		c = s.GetSpec().GetRollback()
	}
	c = spec.EffectiveUpdate(c)
	r.active = st.GetState() == store.Updating || st.GetState() == store.RollbackStarted
	r.paused = st.GetState() == store.Paused || st.GetState() == store.RollbackPaused
	r.startFirst = c.GetOrder() == spec.StartFirst
	r.parallelism = int(cmp.Or(min(c.GetParallelism(), math.MaxInt32), math.MaxInt32))
	r.delay, r.monitor = time.Duration(c.GetDelayNs()), time.Duration(c.GetMonitorNs())
	r.ratio, r.action, r.since = c.GetMaxFailureRatio(), c.GetFailureAction(), st.GetSince()
	return r
}
