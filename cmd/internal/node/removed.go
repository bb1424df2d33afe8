package node

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/redoubt-cluster/redoubt/cmd/internal/control/apierr"
	"github.com/redoubt-cluster/redoubt/cmd/internal/control/controlpb"
	"github.com/redoubt-cluster/redoubt/internal/atomicfile"
	"github.com/redoubt-cluster/redoubt/pki/authz"
	"github.com/redoubt-cluster/redoubt/pki/authz/authzpb"
)

// removal is the file `removed`: the cluster took this node out. It is written
// before anything is undone, so that a node that stops half way goes on with it,
// and goes when the node joins or founds a cluster. It holds no secret.
type removal struct {
	NodeID    string `json:"node_id"`
	ClusterID string `json:"cluster_id"`
	// At is when this node was told, in Unix seconds of its own clock.
	At int64 `json:"at"`
	// Running is set until its containers are gone.
	Running bool `json:"running,omitempty"`
}

func (r *removal) String() string {
	return fmt.Sprintf("removed from cluster %s (it was node %s there, and was told on %s)",
		r.ClusterID, r.NodeID, time.Unix(r.At, 0).UTC().Format("2006-01-02 15:04:05 MST"))
}

// errRemoved ends a member's state on the cluster's word.
var errRemoved = errors.New("the cluster removed this node")

// notice looks at what a manager answered. Only connections on which the other
// side proved to be a manager lead here. It keeps why this node may not come in,
// for status to show, and whether it was removed, which awaitRemoval waits for.
func (n *Node) notice(err error) error {
	switch status.Code(err) {
	case codes.Unauthenticated, codes.PermissionDenied:
		n.setTrouble(errors.New(status.Convert(err).Message()))
	}
	r := authz.RefusalOf(err)
	switch self := n.who(); {
	case r == nil || r.GetNodeId() != self.NodeID:
	case r.GetReason() == authzpb.Refusal_REASON_REMOVED:
		select {
		case n.told <- r.GetNodeId():
		default: // it is known already
		}
	case r.GetReason() == authzpb.Refusal_REASON_ROLE_CHANGED && self.Manager:
		select {
		case n.roleChanged <- struct{}{}:
		default:
		}
	}
	return err
}

// awaitRemoval returns errRemoved when a manager said that this node was removed.
func (n *Node) awaitRemoval(ctx context.Context) error {
	for {
		select {
		case id := <-n.told:
			if id == n.who().NodeID { // not of a former membership
				return errRemoved
			}
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// removed is the state of a node that was told so. It forgets the membership
// first, as its keys are worth nothing any more but to a thief, then ends its
// containers, however long their runtime takes to answer.
func (n *Node) removed(ctx context.Context) (state, error) {
	m := n.who()
	r, err := n.disk.loadRemoval()
	if err != nil {
		n.log.Warn("the note of a removal is replaced", "err", err)
	}
	if m.NodeID != "" && (r == nil || r.NodeID != m.NodeID) {
		r = &removal{NodeID: m.NodeID, ClusterID: m.ClusterID, At: time.Now().Unix(), Running: true}
		if err := n.disk.saveRemoval(r); err != nil {
			return nil, err
		}
		n.log.Warn("the cluster removed this node: it forgets its keys and ends its containers", "cluster", m.ClusterID, "node", m.NodeID)
	}
	n.setPhase(controlpb.NodePhase_NODE_PHASE_REMOVED, nil, "%s; its containers are being ended", r)
	done := errors.New("done")
	err = n.while(ctx, apierr.State("wait until `redoubt status` says so", "this node was removed from its cluster and is ending its containers"),
		func(ctx context.Context) error {
			for pause := removalRetry; ; pause = min(2*pause, longestRemovalRetry) {
				err := n.giveUp(ctx)
				if err == nil {
					return done
				}
				n.log.Warn("giving up the membership is not done yet", "err", err, "retry_in", pause)
				if sleep(ctx, pause) != nil {
					return ctx.Err()
				}
			}
		})
	if !errors.Is(err, done) {
		return nil, err
	}
	r.Running = false
	if err := n.disk.saveRemoval(r); err != nil {
		return nil, err
	}
	n.become(nil)
	return n.empty, nil
}

// A part of giving up that failed, as rund was away, is tried again after
// removalRetry, doubling up to longestRemovalRetry.
const removalRetry, longestRemovalRetry = time.Second, 30 * time.Second

func (n *Node) giveUp(ctx context.Context) error {
	return errors.Join(n.forget(ctx), n.stopTasks(ctx))
}

// while runs do and refuses what the operator asks for meanwhile.
func (n *Node) while(ctx context.Context, otherwise error, do func(context.Context) error) error {
	ctx, cancel := context.WithCancel(ctx)
	result := make(chan error, 1)
	go func() { result <- do(ctx) }()
	defer cancel()
	for {
		select {
		case req := <-n.requests:
			req.refuse(otherwise)
		case err := <-result:
			return err
		}
	}
}

func sleep(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// emptyPhase is what a node in no cluster says of itself.
func (n *Node) emptyPhase() {
	if r, err := n.disk.loadRemoval(); err == nil && r != nil {
		n.setPhase(controlpb.NodePhase_NODE_PHASE_REMOVED, nil, "%s", r)
		return
	}
	n.setPhase(controlpb.NodePhase_NODE_PHASE_EMPTY, nil, "in no cluster")
}

// loadRemoval returns nil where this node was not removed.
func (d disk) loadRemoval() (*removal, error) {
	var r removal
	if err := d.load("removed", &r); errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	} else if err != nil {
		return nil, err
	}
	return &r, nil
}

func (d disk) saveRemoval(r *removal) error { return d.save("removed", r) }

func (d disk) dropRemoval() error { return atomicfile.Remove(d.path("removed")) }
