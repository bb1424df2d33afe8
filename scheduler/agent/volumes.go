package agent

import (
	"fmt"
	"slices"
	"time"

	"github.com/redoubt-cluster/redoubt/internal/ident"
	"github.com/redoubt-cluster/redoubt/scheduler/rund/rundpb"
	"github.com/redoubt-cluster/redoubt/scheduler/schedulerpb"
	"github.com/redoubt-cluster/redoubt/scheduler/volumes"
)

// takeRemovedVolumes passes on to rund which volumes' data is to be deleted.
func (s *session) takeRemovedVolumes(m *schedulerpb.RemoveVolumes) error {
	if n := len(m.GetIds()); n > maxVolumes {
		return fmt.Errorf("the manager wants %d volumes to be deleted: at most %d are possible", n, maxVolumes)
	}
	for _, id := range m.GetIds() {
		if !ident.Valid(id) {
			return fmt.Errorf("the manager wants a volume with an invalid id %.60q to be deleted", id)
		}
	}
	return s.input(func(mc *machine, _ time.Time) error {
		mc.again = mc.again || !slices.Equal(mc.noVolumes, m.GetIds())
		mc.noVolumes = m.GetIds()
		return nil
	})
}

// mayHaveVolumes reports whether the node may have volumes that it did not have before: also
// where a container could not be made, which came after its volumes.
func mayHaveVolumes(r *rundpb.WatchResponse) bool {
	return slices.ContainsFunc(r.GetTasks(), func(a *rundpb.TaskActual) bool {
		made := a.GetPhase() == rundpb.Phase_PHASE_CREATED || a.GetPhase() == rundpb.Phase_PHASE_FAILED
		return made && len(volumes.Uses(a.GetSpec().GetContainer())) > 0
	})
}
