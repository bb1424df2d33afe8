package node

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"runtime"
	"slices"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/redoubt-cluster/redoubt/cmd/internal/control/apierr"
	"github.com/redoubt-cluster/redoubt/cmd/internal/control/controlpb"
	"github.com/redoubt-cluster/redoubt/internal/version"
	"github.com/redoubt-cluster/redoubt/pki"
	"github.com/redoubt-cluster/redoubt/pki/authz"
	"github.com/redoubt-cluster/redoubt/scheduler/schedulerpb"
	"github.com/redoubt-cluster/redoubt/scheduler/taskpb"
)

// workerState is a running worker.
type workerState struct {
	n     *Node
	creds *pki.Credentials
}

func (w *workerState) fill(s *selfStatus) {
	end := w.creds.Leaf().NotAfter
	s.leafNotAfter = end.Unix()
	if word := expiredWord(end, time.Now()); word != "" {
		s.message = strings.TrimSuffix(word+"; "+s.message, "; ")
	}
}

// expiredWord says what became of a worker's certificate that has ended, and
// what mends it.
func expiredWord(end, now time.Time) string {
	switch late := now.Sub(end); {
	case late <= 0:
		return ""
	case late <= authz.ExpiredGrace:
		return fmt.Sprintf("the certificate ended on %s and is being renewed", end.UTC().Format(time.DateOnly))
	}
	return fmt.Sprintf("the certificate ended on %s, more than %d days ago, and is renewed no more: `redoubt leave --force` here, `redoubt node rm` of this node on a manager, then `redoubt join` with a new token",
		end.UTC().Format(time.DateOnly), int(authz.ExpiredGrace/(24*time.Hour)))
}

// worker serves the agent until the node leaves.
func (n *Node) worker(ctx context.Context) (state, error) {
	leaf, err := n.disk.loadLeaf("leaf")
	if err != nil {
		return n.broken(err), nil
	}
	creds, err := n.credentials(ctx, leaf)
	if err != nil {
		return n.broken(fmt.Errorf("%s: %w", n.disk.path("leaf"), err)), nil
	}
	w := &workerState{n, creds}
	n.setPhase(controlpb.NodePhase_NODE_PHASE_ACTIVE, w, "")

	var left *request
	g, gctx := errgroup.WithContext(ctx)
	stop := errors.New("leaving")
	g.Go(func() error { return n.runAgent(gctx, creds, w.managers, nil) })
	g.Go(func() error { return n.runRenewer(gctx, creds, w.managers, nil) })
	g.Go(func() error { return n.awaitRemoval(gctx) })
	g.Go(func() error { return n.awaitPromotion(gctx, w) })
	g.Go(func() error {
		for {
			req, err := n.next(gctx)
			if err != nil {
				return err
			}
			if _, ok := req.do.(*controlpb.LeaveRequest); !ok {
				req.refuse(apierr.InCluster(n.who().ClusterID))
				continue
			}
			left = &req
			return stop
		}
	})
	err = g.Wait()
	switch {
	case errors.Is(err, errRemoved) && ctx.Err() == nil:
		return n.removed, nil
	case errors.Is(err, errPromoted) && ctx.Err() == nil:
		return n.manager, nil
	case !errors.Is(err, stop) || ctx.Err() != nil:
		return nil, err
	}
	if err := n.stopTasks(ctx); err != nil && !left.do.(*controlpb.LeaveRequest).GetForce() {
		left.refuse(apierr.State("try again, or add --force", "%v", err))
		return n.worker, nil
	}
	return n.leave(ctx, left)
}

// managers are the addresses to try, in a random order so that workers spread.
func (w *workerState) managers() []string {
	addrs := slices.Clone(w.n.who().Managers)
	rand.Shuffle(len(addrs), func(i, j int) { addrs[i], addrs[j] = addrs[j], addrs[i] })
	return addrs
}

// describe is the node's report of itself; the agent adds runtime and network.
func (n *Node) describe(facts *managerFacts) *schedulerpb.NodeDescription {
	d := &schedulerpb.NodeDescription{Hostname: n.cfg.Name, Os: runtime.GOOS, Arch: runtime.GOARCH,
		Resources: machineResources(), RedoubtVersion: version.String(), Kernel: kernelRelease(),
		Features: []*taskpb.Feature{{Name: pki.ExternalFeature, Present: true}}}
	if f := n.fips(); f != nil {
		d.Features = append(d.Features, f)
	}
	if m := n.mesh.Load(); m != nil {
		if f := m.feature(); f != nil {
			d.Features = append(d.Features, f)
		}
	}
	if facts != nil {
		d.SlotEpoch, d.SlotsLacking, d.StoreKey, d.Ticket = facts.slotEpoch(), facts.slotsLacking(), facts.storeKey(), facts.ticket()
	}
	return d
}

// next waits for the operator's next request.
func (n *Node) next(ctx context.Context) (request, error) {
	select {
	case r := <-n.requests:
		return r, nil
	case <-ctx.Done():
		return request{}, ctx.Err()
	}
}

func (r request) refuse(err error) { r.answer <- answer{err: err} }
