package control_test

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"
	"testing/synctest"

	"github.com/redoubt-cluster/redoubt/cmd/internal/control/apierr"
	"github.com/redoubt-cluster/redoubt/cmd/internal/control/controlpb"
	meshstore "github.com/redoubt-cluster/redoubt/mesh/store"
	"github.com/redoubt-cluster/redoubt/raftstore"
	"github.com/redoubt-cluster/redoubt/scheduler/dispatcher"
	"github.com/redoubt-cluster/redoubt/scheduler/schedulerpb"
)

// meshEnds are the nodes' ends of the tunnels: a node that was told to change
// its key says the new one after a number of questions.
type meshEnds struct {
	mu    sync.Mutex
	err   error
	slow  int // questions until the new key is in force; below zero: never
	told  int
	asked int // since it was told
}

func (m *meshEnds) Mesh(_ context.Context, _ string, rotate bool) (*schedulerpb.MeshState, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.err != nil {
		return nil, m.err
	}
	if rotate {
		m.told++
	} else if m.told > 0 {
		m.asked++
	}
	key := byte(1)
	if m.told > 0 && m.slow >= 0 && m.asked >= m.slow {
		key = 2
	}
	return &schedulerpb.MeshState{PublicKey: []byte{key}}, nil
}

func (w *world) keyAsked(id string) (asked uint64) {
	w.t.Helper()
	if err := w.store.View(func(r *raftstore.ReadTx) error {
		n, _ := meshstore.Nodes.Get(r, id)
		asked = n.GetKeyAsked()
		return nil
	}); err != nil {
		w.t.Fatal(err)
	}
	return asked
}

func TestRotateMeshKey(t *testing.T) {
	for _, c := range []struct {
		name   string
		err    error
		slow   int
		node   string
		reason apierr.Reason // "" where it succeeds
		text   string
		told   int
	}{
		{name: "at once", node: "worker-1", told: 1},
		{name: "after a while", node: "worker-1", slow: 40, told: 1},
		{name: "never", node: "worker-1", slow: -1, told: 1, reason: apierr.ReasonTimeout, text: "has begun to change its WireGuard key and is not done yet"},
		{name: "away", node: "worker-1", err: dispatcher.ErrAway, reason: apierr.ReasonState, text: "node worker-1 is away"},
		{name: "slow to answer", node: "worker-1", err: fmt.Errorf("asking: %w", context.DeadlineExceeded), reason: apierr.ReasonTimeout, text: "node worker-1"},
		{name: "refused", node: "worker-1", err: errors.New("its version knows no mesh"), reason: apierr.ReasonState, text: "knows no mesh"},
		{name: "nobody", node: "nobody", reason: apierr.ReasonNotFound, text: "no node"},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t)
				w.ends.err, w.ends.slow = c.err, c.slow
				r, err := w.api.RotateMeshKey(t.Context(), &controlpb.RotateMeshKeyRequest{Node: c.node})
				if c.reason != "" {
					wantReason(t, err, c.reason, c.text)
				} else if err != nil || r.GetId() != w.worker || string(r.GetPublicKey()) != "\x02" {
					t.Errorf("%v, %v: not the new key", r, err)
				}
				// Who was not told has nothing on record either: it would change its key
				// when it is back, though the operator was refused.
				if asked := w.keyAsked(w.worker); w.ends.told != c.told || asked != uint64(c.told) {
					t.Errorf("told %d times, on record %d: want %d", w.ends.told, asked, c.told)
				}
			})
		})
	}
}
