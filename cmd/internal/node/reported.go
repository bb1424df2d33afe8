package node

import (
	"context"
	"sync"
	"time"

	"github.com/redoubt-cluster/redoubt/scheduler/schedulerpb"
)

// reportPatience bounds the wait for a report; it takes half a second.
const reportPatience = 5 * time.Second

// reported is the last description of this node that a manager was sent.
type reported struct {
	mu      sync.Mutex
	images  map[string]string // guarded by mu
	changed chan struct{}     // closed at the next set. Guarded by mu
}

func (r *reported) set(d *schedulerpb.NodeDescription) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.images = d.GetLoadedImages()
	if r.changed != nil {
		close(r.changed)
		r.changed = nil
	}
}

// await returns when managers were told that these names mean these digests, or
// after patience: a node may have more images than it reports.
func (r *reported) await(ctx context.Context, images map[string]string, patience time.Duration) {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	for {
		r.mu.Lock()
		all := true
		for name, digest := range images {
			all = all && r.images[name] == digest
		}
		if r.changed == nil {
			r.changed = make(chan struct{})
		}
		changed := r.changed
		r.mu.Unlock()
		if all {
			return
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return
		}
	}
}
