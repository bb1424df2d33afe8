package agenttest

import (
	"slices"

	"google.golang.org/protobuf/proto"

	"github.com/redoubt-cluster/redoubt/scheduler/rund/rundpb"
)

// relay has a task that runs have the relays that it should.
func (r *Rund) relay(d *rundpb.TaskDesired) {
	t := r.tasks[d.TaskId]
	if t.GetPhase() != rundpb.Phase_PHASE_RUNNING || d.Relays == nil {
		return
	}
	var now []*rundpb.RelayState
	for _, x := range d.Relays.Relays {
		text := r.unrelayed[x.Published]
		now = append(now, &rundpb.RelayState{Relay: x, Listening: text == "", Error: text})
	}
	if !slices.EqualFunc(now, t.Relays, func(a, b *rundpb.RelayState) bool { return proto.Equal(a, b) }) {
		r.change(d.TaskId, func(t *rundpb.TaskActual) { t.Relays = now })
	}
}

// FailRelay makes the relays of a published port fail with this text; empty: no
// more.
func (r *Rund) FailRelay(published uint32, text string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.unrelayed[published] = text
	for id := range r.tasks {
		r.change(id, func(t *rundpb.TaskActual) {
			for _, s := range t.Relays {
				if s.Relay.Published == published {
					s.Listening, s.Error = text == "", text
				}
			}
		})
	}
}
