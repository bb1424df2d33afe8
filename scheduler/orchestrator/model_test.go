package orchestrator

import (
	"maps"
	"slices"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/redoubt-cluster/redoubt/scheduler/schedulerpb"
	"github.com/redoubt-cluster/redoubt/scheduler/spec"
	"github.com/redoubt-cluster/redoubt/scheduler/store"
	"github.com/redoubt-cluster/redoubt/scheduler/taskpb"
)

func pick[M ~map[string]V, V any](t *rapid.T, m M) string {
	return rapid.SampledFrom(slices.Sorted(maps.Keys(m))).Draw(t, "which")
}

func TestConvergesFromAnywhere(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		global := rapid.Bool().Draw(t, "global")
		w := newWorld(t, global, &taskpb.RestartPolicy{Condition: taskpb.RestartPolicy_CONDITION_ANY, DelayNs: 5e9})
		sometimes := func() bool { return rapid.Bool().Draw(t, "pass") }
		t.Repeat(map[string]func(*rapid.T){
			"": func(*rapid.T) { w.now = w.now.Add(time.Second) },
			"scale": func(t *rapid.T) {
				if w.service == nil || global {
					t.Skip()
				}
				n := rapid.Uint64Range(0, 6).Draw(t, "n")
				w.bump(func(s *schedulerpb.Service) { s.Spec.GetReplicated().Replicas = n })
			},
			"update": func(t *rapid.T) {
				if w.service == nil {
					t.Skip()
				}
				w.update()
			},
			"rollout": func(t *rapid.T) {
				if w.service == nil {
					t.Skip()
				}
				w.rollout(config(t, "update", spec.ActionPause, spec.ActionContinue, spec.ActionRollback), config(t, "rollback", spec.ActionPause, spec.ActionContinue))
			},
			"rebalance": func(t *rapid.T) {
				if w.service == nil || global {
					t.Skip()
				}
				w.uneven = true
				w.rebalance(rapid.Bool().Draw(t, "automatic"))
			},
			"resume": func(*rapid.T) {
				if w.service != nil {
					w.resume()
				}
			},
			"remove service": func(t *rapid.T) {
				if rapid.IntRange(0, 9).Draw(t, "rarely") == 0 {
					w.service = nil
				}
			},
			"add node": func(*rapid.T) {
				if len(w.nodes) < 6 {
					w.addNode()
				}
			},
			"remove node": func(t *rapid.T) {
				if len(w.nodes) > 0 {
					id := pick(t, w.nodes)
					delete(w.nodes, id)
				}
			},
			"node state": func(t *rapid.T) {
				if len(w.nodes) > 0 {
					n := w.nodes[pick(t, w.nodes)]
					n.State = schedulerpb.NodeState(rapid.IntRange(0, 2).Draw(t, "state"))
				}
			},
			"availability": func(t *rapid.T) {
				if len(w.nodes) > 0 {
					n := w.nodes[pick(t, w.nodes)]
					n.Availability = schedulerpb.Availability(rapid.IntRange(2, 4).Draw(t, "availability"))
				}
			},
			"agent": func(t *rapid.T) {
				if len(w.tasks) > 0 {
					w.agent(pick(t, w.tasks), rapid.IntRange(0, 3).Draw(t, "fails") == 0)
				}
			},
			"leader change":  func(*rapid.T) { w.memory = NewService() },
			"reconcile":      func(*rapid.T) { w.reconcile(func() bool { return true }) },
			"half reconcile": func(*rapid.T) { w.reconcile(sometimes) },
			"place": func(*rapid.T) {
				if w.service != nil {
					w.place()
				}
			},
		})
		// In the end the world is kind, and what was asked for must come about.
		for _, n := range w.nodes {
			n.State, n.Availability = schedulerpb.NodeState_NODE_STATE_READY, store.Active
		}
		if len(w.nodes) == 0 {
			w.addNode()
		}
		for range 3 { // each time what failed before is behind it
			if w.settle(); w.service != nil {
				w.resume()
			}
		}
		if p := Reconcile(w.input()); len(p.Slots)+len(p.Revisions) > 0 || p.More {
			t.Fatalf("what was remembered hid from the plan %v", p)
		}
		w.converged(t)
	})
}
