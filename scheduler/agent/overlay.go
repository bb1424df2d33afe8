package agent

import (
	"context"
	"maps"
	"slices"
	"time"

	"github.com/redoubt-cluster/redoubt/mesh/overlay"
)

// namespaces are the networks' that rund should have.
func (a *agent) namespaces() (ids []string, keep bool) {
	if a.Overlay == nil {
		return nil, true
	}
	return a.Overlay.Namespaces()
}

// followOverlay tells the networks which tasks there are, and the machine what
// became of them there.
func (a *agent) followOverlay(ctx context.Context) error {
	if a.Overlay == nil {
		<-ctx.Done()
		return ctx.Err()
	}
	var last map[string]overlay.State
	was := false
	for {
		a.mu.Lock()
		ready, observed := a.machine.ready(), a.machine.observed
		tasks, sound := a.machine.onNetworks(), a.machine.sandboxes()
		if ready {
			a.machine.placing(tasks)
		}
		a.mu.Unlock()
		switch {
		case ready:
			a.Overlay.SetTasks(tasks)
		case observed:
			a.Overlay.Seen(sound)
		}
		a.unpublished(a.Overlay.Unpublished())
		if states, settled := a.Overlay.States(); settled != was || !maps.Equal(states, last) {
			last, was = states, settled
			a.input(func(m *machine, now time.Time) error {
				m.networked(now, states, settled)
				return nil
			})
		}
		select {
		case <-a.overlayKick:
		case <-a.OverlayChanged:
			a.rundKick.now() // the namespaces may be others
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// unpublished has the node say which published ports it does not answer on.
func (a *agent) unpublished(ports []string) {
	a.mu.Lock()
	changed := !slices.Equal(ports, a.ports)
	a.ports = ports
	a.mu.Unlock()
	if changed {
		a.helloKick.now()
	}
}
