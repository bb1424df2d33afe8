package agent

import (
	"testing"

	"github.com/redoubt-cluster/redoubt/scheduler/rund/rundpb"
	"github.com/redoubt-cluster/redoubt/scheduler/taskpb"
)

// TestWhenVolumesAreLookedFor: a task whose container could not be made has left a volume,
// which managers are to know of.
func TestWhenVolumesAreLookedFor(t *testing.T) {
	with := &taskpb.TaskSpec{Container: &taskpb.ContainerSpec{Mounts: []*taskpb.Mount{{Type: taskpb.Mount_TYPE_VOLUME, Target: "/d", Volume: &taskpb.VolumeUse{Name: "db"}}}}}
	for phase, want := range map[rundpb.Phase]bool{
		rundpb.Phase_PHASE_PREPARING: false, rundpb.Phase_PHASE_CREATED: true, rundpb.Phase_PHASE_RUNNING: false,
		rundpb.Phase_PHASE_EXITED: false, rundpb.Phase_PHASE_FAILED: true,
	} {
		r := &rundpb.WatchResponse{Tasks: []*rundpb.TaskActual{{Phase: phase, Spec: &taskpb.TaskSpec{}}, {Phase: phase, Spec: with}}}
		if got := mayHaveVolumes(r); got != want {
			t.Errorf("%v: %v", phase, got)
		}
		if r.Tasks = r.Tasks[:1]; mayHaveVolumes(r) {
			t.Errorf("%v: without a volume", phase)
		}
	}
}
