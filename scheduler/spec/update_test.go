package spec

import (
	"math"
	"strings"
	"testing"

	"google.golang.org/protobuf/proto"

	"github.com/redoubt-cluster/redoubt/scheduler/schedulerpb"
	"github.com/redoubt-cluster/redoubt/scheduler/taskpb"
)

func TestUpdateConfigs(t *testing.T) {
	host := []*taskpb.Port{{Target: 80, Published: 80, Mode: taskpb.Port_MODE_HOST}}
	for name, tc := range map[string]struct {
		update, rollback *schedulerpb.UpdateConfig
		global           bool
		wrong            string
	}{
		"nothing":               {},
		"defaults":              {update: &schedulerpb.UpdateConfig{}, rollback: &schedulerpb.UpdateConfig{}},
		"all":                   {update: &schedulerpb.UpdateConfig{Parallelism: 7, DelayNs: 1, MonitorNs: 1, MaxFailureRatio: 1, FailureAction: ActionRollback, Order: StartFirst}},
		"parallelism":           {update: &schedulerpb.UpdateConfig{Parallelism: MaxReplicas + 1}, wrong: "update parallelism is 100001"},
		"delay":                 {rollback: &schedulerpb.UpdateConfig{DelayNs: -1}, wrong: "rollback delay is"},
		"long delay":            {update: &schedulerpb.UpdateConfig{DelayNs: int64(MaxUpdateDelay) + 1}, wrong: "update delay is"},
		"monitor":               {update: &schedulerpb.UpdateConfig{MonitorNs: int64(MaxMonitor) + 1}, wrong: "update monitor is"},
		"ratio":                 {update: &schedulerpb.UpdateConfig{MaxFailureRatio: 1.1}, wrong: "max failure ratio is 1.1"},
		"negative ratio":        {update: &schedulerpb.UpdateConfig{MaxFailureRatio: -0.1}, wrong: "max failure ratio"},
		"no number":             {update: &schedulerpb.UpdateConfig{MaxFailureRatio: float32(math.NaN())}, wrong: "max failure ratio"},
		"action":                {update: &schedulerpb.UpdateConfig{FailureAction: 9}, wrong: "failure action is unknown"},
		"order":                 {update: &schedulerpb.UpdateConfig{Order: 9}, wrong: "order is unknown"},
		"rollback of rollback":  {rollback: &schedulerpb.UpdateConfig{FailureAction: ActionRollback}, wrong: "rollback failure action is rollback"},
		"beside on one node":    {update: &schedulerpb.UpdateConfig{Order: StartFirst}, global: true, wrong: "use stop-first"},
		"back beside on a node": {rollback: &schedulerpb.UpdateConfig{Order: StartFirst}, global: true, wrong: "use stop-first"},
		"one after the other":   {update: &schedulerpb.UpdateConfig{Order: StopFirst}, global: true},
	} {
		s := full()
		s.Update, s.Rollback = tc.update, tc.rollback
		if tc.global {
			s.Mode = &schedulerpb.ServiceSpec_Global{Global: &schedulerpb.Global{}}
			s.Task.Ports, s.Task.MaxPerNode, s.IngressConstraints = host, 0, nil
			s.Task.Preferences, s.Task.Strategy, s.Rebalance = nil, 0, nil
		}
		n := Normalize(s)
		if err := Validate(n); (err == nil) != (tc.wrong == "") || err != nil && !strings.Contains(err.Error(), tc.wrong) {
			t.Errorf("%s: %v, want %q", name, err, tc.wrong)
		}
		if !proto.Equal(n, Normalize(n)) {
			t.Errorf("%s: to normalize twice is not the same", name)
		}
	}
	if c := EffectiveUpdate(nil); c.Parallelism != 1 || c.MonitorNs != 5e9 || c.FailureAction != ActionPause || c.Order != StopFirst {
		t.Errorf("without a word: %v", c)
	}
}
