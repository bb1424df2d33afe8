package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"time"

	"golang.org/x/sys/unix"

	"github.com/redoubt-cluster/redoubt/cmd/internal/apiclient"
	"github.com/redoubt-cluster/redoubt/cmd/internal/control/controlpb"
	"github.com/redoubt-cluster/redoubt/cmd/internal/lab"
)

// killLeader kills the leader's redoubtd and prints how long it took until every
// node had a session with the next leader, what that cost, and whether a task
// was begun again. That none may be is checked here, not only printed.
func killLeader(ctx context.Context, l *lab.Lab, f *fleet, tasks int, trace bool) error {
	leader, err := leaderOf(ctx, l)
	if err != nil {
		return err
	}
	pid, err := findDaemon(l.DataDir(leader))
	if err != nil {
		return err
	}
	begun, sets := f.begun.Load(), f.sets.Load()
	before, err := l.Metric(ctx, leader, "redoubt_raft_applied_index")
	if err != nil {
		return err
	}
	usedBefore, err := usages(l)
	if err != nil {
		return err
	}
	began := time.Now()
	if err := unix.Kill(pid, unix.SIGKILL); err != nil {
		return err
	}
	if trace {
		f.lost.print(io.Discard)
		defer f.trace(ctx, os.Stderr)()
	}
	all := int64(len(f.nodes))
	// The old sessions end at once; until then the count is of them.
	if err := await(ctx, time.Millisecond, func() (bool, error) { return f.sessions.Load() < all, nil }); err != nil {
		return err
	}
	if err := await(ctx, 5*time.Millisecond, func() (bool, error) { return f.sessions.Load() == all, nil }); err != nil {
		return fmt.Errorf("%d of %d nodes found the next leader: %w", f.sessions.Load(), all, err)
	}
	sessions := time.Since(began)
	var next lab.Host
	err = await(ctx, 50*time.Millisecond, func() (ok bool, err error) {
		if next, err = leaderOf(ctx, l); err != nil {
			return false, err
		}
		return whole(ctx, l, next, len(f.nodes), tasks)
	})
	if err != nil {
		return fmt.Errorf("the next leader does not see all as it was: %w", err)
	}
	whole := time.Since(began)
	after, err := l.Metric(ctx, next, "redoubt_raft_applied_index")
	if err != nil {
		return err
	}
	u, err := measure(l)
	if err != nil {
		return err
	}
	used, err := usageOf(l, next)
	if err != nil {
		return err
	}
	if was := usedBefore[next.Name]; was.pid == used.pid { // not the one that was killed
		used.cpu -= was.cpu
	}
	again := f.begun.Load() - begun
	fmt.Printf("leader killed: all %d sessions %.2fs, all up and running %.2fs, %d complete sets sent, %.0f entries, %d tasks begun again, the next leader used %.2fs of processor time, most RSS %dMiB\n",
		all, sessions.Seconds(), whole.Seconds(), f.sets.Load()-sets, after-before, again, used.cpu.Seconds(), u.rss>>20)
	if again != 0 {
		return fmt.Errorf("%d tasks were begun again", again)
	}
	return nil
}

// whole reports whether the manager knows all nodes as ready and all tasks as
// running.
func whole(ctx context.Context, l *lab.Lab, h lab.Host, nodes, tasks int) (bool, error) {
	c, err := apiclient.Dial(ctx, l.APISocket(h))
	if err != nil {
		return false, err
	}
	defer c.Close()
	st, err := c.GetStatus(ctx, &controlpb.GetStatusRequest{})
	if err != nil {
		return false, apiclient.Err(err)
	}
	ready := int(st.GetNodesReady())
	for _, m := range st.GetManagers() {
		if m.GetReachable() {
			ready--
		}
	}
	resp, err := c.ListServices(ctx, &controlpb.ListServicesRequest{})
	if err != nil {
		return false, apiclient.Err(err)
	}
	return ready == nodes && resp.GetServices()[0].GetRunning() == uint64(tasks), nil
}

// leaderOf asks the managers who leads.
func leaderOf(ctx context.Context, l *lab.Lab) (lab.Host, error) {
	c, err := l.AnyManager(ctx)
	if err != nil {
		return lab.Host{}, err
	}
	defer c.Close()
	list, err := c.ListNodes(ctx, &controlpb.ListNodesRequest{})
	if err != nil {
		return lab.Host{}, apiclient.Err(err)
	}
	for _, n := range list.GetNodes() {
		if n.GetManager().GetLeader() {
			return l.Host(n.GetName())
		}
	}
	return lab.Host{}, fmt.Errorf("no manager leads")
}
