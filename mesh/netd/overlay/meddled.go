package overlay

import "github.com/redoubt-cluster/redoubt/mesh/netd/internal/kernel"

// Meddled is what somebody did to rules of networks.
func (o *Overlays) Meddled() kernel.Meddling {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.meddled
}

func (r *realm) rulesPutBack() {
	r.changed("put the rules back")
	r.o.meddled.Note("the rules of network " + r.id)
}
