package main

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/redoubt-cluster/redoubt/cmd/internal/apiclient"
	"github.com/redoubt-cluster/redoubt/cmd/internal/control/controlpb"
	"github.com/redoubt-cluster/redoubt/pki/profile"
)

// revoke takes trust from n nodes, one after the other, and from as many workload
// identities, and prints when it was felt: the end of the node's session, and the
// last of all nodes to hear of the identity. Both are from before the call. That no
// revoked node gets another session, of any manager, is checked here.
func revoke(ctx context.Context, c *apiclient.Client, f *fleet, n int) error {
	cluster := f.nodes[0].creds.Peer().ClusterID
	var cuts, heard, calls []time.Duration
	var revoked []int64 // when each session ended
	for i := range min(n, len(f.nodes)) {
		began := time.Now()
		id := profile.ServiceURI(cluster, "", fmt.Sprintf("revoked-%d", i)).String()
		if _, err := c.RevokeIdentity(ctx, &controlpb.RevokeIdentityRequest{Identity: id}); err != nil {
			return apiclient.Err(err)
		}
		if err := await(ctx, time.Millisecond, func() (bool, error) {
			for _, node := range f.nodes[i:] { // those before are gone
				if node.denials.Load() < int64(i+1) {
					return false, nil
				}
			}
			return true, nil
		}); err != nil {
			return fmt.Errorf("not every node heard that an identity is revoked: %w", err)
		}
		last := int64(0)
		for _, node := range f.nodes[i:] {
			last = max(last, node.told.Load())
		}
		heard = append(heard, time.Unix(0, last).Sub(began))

		node := f.nodes[i]
		began = time.Now()
		if _, err := c.RevokeNode(ctx, &controlpb.RevokeNodeRequest{Node: node.name}); err != nil {
			return apiclient.Err(err)
		}
		calls = append(calls, time.Since(began))
		if err := await(ctx, time.Millisecond, func() (bool, error) { return node.ended.Load() > began.UnixNano(), nil }); err != nil {
			return fmt.Errorf("a revoked node kept its session: %w", err)
		}
		revoked = append(revoked, node.ended.Load())
		cuts = append(cuts, time.Unix(0, node.ended.Load()).Sub(began))
	}
	// They go on trying, at all managers; none may have let one in.
	tried := f.dials.Load()
	if err := await(ctx, 10*time.Millisecond, func() (bool, error) { return f.dials.Load() >= tried+int64(2*len(cuts)), nil }); err != nil {
		return err
	}
	for i, node := range f.nodes[:len(cuts)] {
		if at := node.met.Load(); at > revoked[i] {
			return fmt.Errorf("%s had a session %v after it was revoked", node.name, time.Unix(0, at).Sub(time.Unix(0, revoked[i])))
		}
	}
	fmt.Printf("nodes=%d revoked=%d: node revoke → its session is cut %s; the command took %s; identity revoke → the last of %d nodes heard %s\n",
		len(f.nodes), len(cuts), spread(cuts), spread(calls), len(f.nodes)-len(cuts)+1, spread(heard))
	return nil
}

func spread(d []time.Duration) string {
	slices.Sort(d)
	round := func(d time.Duration) time.Duration { return d.Round(100 * time.Microsecond) }
	return fmt.Sprintf("median %v, %v to %v", round(d[len(d)/2]), round(d[0]), round(d[len(d)-1]))
}
