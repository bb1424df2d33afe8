package spec

import (
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/redoubt-cluster/redoubt/scheduler/schedulerpb"
	"github.com/redoubt-cluster/redoubt/scheduler/taskpb"
)

func TestPlacement(t *testing.T) {
	gpu := func(kind string, n int64) *taskpb.Resources {
		return &taskpb.Resources{Generic: []*taskpb.GenericResource{{Kind: kind, Count: n}}}
	}
	for name, tc := range map[string]struct {
		task      *taskpb.TaskSpec
		rebalance *schedulerpb.RebalanceConfig
		global    bool
		wrong     string
	}{
		"nothing":            {},
		"a zone":             {task: &taskpb.TaskSpec{Preferences: []string{"spread = node.labels.zone "}}},
		"no attribute":       {task: &taskpb.TaskSpec{Preferences: []string{"node.labels.zone"}}, wrong: "write spread=node.labels.KEY"},
		"its own labels":     {task: &taskpb.TaskSpec{Preferences: []string{"spread=engine.labels.zone"}}, wrong: "use node.labels.KEY"},
		"each node":          {task: &taskpb.TaskSpec{Preferences: []string{"spread=node.id"}}, wrong: "use node.labels.KEY, or node.role"},
		"no key":             {task: &taskpb.TaskSpec{Preferences: []string{"spread=node.labels."}}, wrong: "cannot be the key"},
		"twice":              {task: &taskpb.TaskSpec{Preferences: []string{"spread=node.labels.a", "spread=node.labels.a "}}, wrong: "given twice"},
		"too many":           {task: &taskpb.TaskSpec{Preferences: strings.Split(strings.Repeat("spread=node.role ", MaxPreferences+1), " ")[:MaxPreferences+1]}, wrong: "at most 8"},
		"too long":           {task: &taskpb.TaskSpec{Preferences: []string{"spread=node.labels." + strings.Repeat("a", MaxConstraint)}}, wrong: "too long"},
		"a zone of global":   {task: &taskpb.TaskSpec{Preferences: []string{"spread=node.labels.a"}}, global: true, wrong: "every node"},
		"packed":             {task: &taskpb.TaskSpec{Strategy: BinPack, Reservations: &taskpb.Resources{MemoryBytes: 1}}},
		"packed by what":     {task: &taskpb.TaskSpec{Strategy: BinPack}, wrong: "reserve CPU or memory"},
		"packed global":      {task: &taskpb.TaskSpec{Strategy: Spread}, global: true, wrong: "every node"},
		"strategy":           {task: &taskpb.TaskSpec{Strategy: 9}, wrong: "use spread or bin-pack"},
		"priority":           {task: &taskpb.TaskSpec{Priority: MaxPriority}},
		"a priority too big": {task: &taskpb.TaskSpec{Priority: MaxPriority + 1}, wrong: "use 0 to 1000"},
		"two of a kind":      {task: &taskpb.TaskSpec{Reservations: gpu("gpu", 2)}, wrong: "no node reports any"},
		"a kind limited":     {task: &taskpb.TaskSpec{Limits: gpu("gpu", 1)}, wrong: "no node reports any"},
		"moved":              {rebalance: &schedulerpb.RebalanceConfig{Automatic: true}},
		"a long pause":       {rebalance: &schedulerpb.RebalanceConfig{PauseNs: int64(MaxRebalancePause + time.Second)}, wrong: "rebalance pause is"},
		"moved global":       {rebalance: &schedulerpb.RebalanceConfig{}, global: true, wrong: "nothing to rebalance"},
	} {
		s := full()
		s.Task.Preferences, s.Task.Strategy, s.Task.Priority = tc.task.GetPreferences(), tc.task.GetStrategy(), tc.task.GetPriority()
		s.Task.Reservations, s.Task.Limits, s.Rebalance = tc.task.GetReservations(), tc.task.GetLimits(), tc.rebalance
		if tc.global {
			s.Mode = &schedulerpb.ServiceSpec_Global{Global: &schedulerpb.Global{}}
			s.Task.Ports, s.Task.MaxPerNode, s.IngressConstraints, s.Update = nil, 0, nil, nil
		}
		n := Normalize(s)
		if err := Validate(n); (err == nil) != (tc.wrong == "") || err != nil && !strings.Contains(err.Error(), tc.wrong) {
			t.Errorf("%s: %v, want %q", name, err, tc.wrong)
		}
		if !proto.Equal(n, Normalize(n)) {
			t.Errorf("%s: to normalize twice is not the same", name)
		}
	}
}
