package scheduler

import (
	"context"
	"slices"
	"strconv"
	"time"

	"github.com/redoubt-cluster/redoubt/raftstore"
	"github.com/redoubt-cluster/redoubt/scheduler/placement"
	"github.com/redoubt-cluster/redoubt/scheduler/schedulerpb"
	"github.com/redoubt-cluster/redoubt/scheduler/store"
)

// Interrupted does what a leader does that is lost half-way: some rounds, and of
// the next round's plan only the first writes.
func Interrupted(ctx context.Context, cfg Config, rounds, writes int) error {
	l := newLoop(cfg)
	w, err := cfg.Store.Watch(l.load, store.Tables()...)
	if err != nil {
		return err
	}
	defer w.Close()
	for range rounds {
		if !l.work() {
			break
		}
		if err := l.turn(ctx, w); err != nil {
			return err
		}
	}
	plan, err := l.plan()
	if err != nil {
		return err
	}
	return l.commit(ctx, plan[:min(writes, len(plan))])
}

// PlaceOnly decides for n tasks of a service as the loop does, round by round
// and counting each, but writes nothing. It returns how few and how many tasks
// a node got, and how long the decisions took.
func PlaceOnly(cfg Config, service string, n int) (least, most int, took time.Duration, err error) {
	err = cfg.Store.View(func(r *raftstore.ReadTx) error {
		l := newLoop(cfg)
		on := map[string]int{}
		for node := range store.Nodes.All(r) {
			l.cluster.SetNode(node)
			on[node.GetId()] = 0
		}
		svc, _ := store.Services.Get(r, service)
		var tasks []*edit
		for i := range n {
			tasks = append(tasks, &edit{new: &schedulerpb.Task{
				Id: strconv.Itoa(i), ServiceId: service, Revision: svc.GetRevision(), Desired: store.Running,
				Status: &schedulerpb.TaskStatus{State: store.Pending},
			}})
		}
		now := time.Now()
		for round := range slices.Chunk(tasks, maxRound) {
			for _, b := range l.batches(r, round, now) {
				l.placeBatch(b, now)
			}
		}
		took = time.Since(now)
		for _, e := range tasks {
			on[e.new.GetNodeId()]++
		}
		least, most = n, 0
		for _, count := range on {
			least, most = min(least, count), max(most, count)
		}
		return nil
	})
	return least, most, took, err
}

// Asked makes that many plans of a service, and says how many of them had it asked
// whether its job is due. before is called before each, with its number.
func Asked(ctx context.Context, cfg Config, service string, plans int, before func(int)) (asked int, err error) {
	l := newLoop(cfg)
	if err := cfg.Store.View(l.load); err != nil {
		return 0, err
	}
	for i := range plans {
		before(i)
		l.service(service)
		if _, err := l.plan(); err != nil {
			return 0, err
		}
		asked += len(l.due)
		if err := l.jobs(ctx); err != nil {
			return 0, err
		}
	}
	return asked, nil
}

// LooksAgain is when the loop looks at the clock anew, where a service is to be looked at
// at that time.
func LooksAgain(now, at time.Time) time.Time {
	l := newLoop(Config{})
	l.againAt("service", at)
	return l.until(now)
}

// RequestsAround are what the loop has compiled of a revision before something and after it.
func RequestsAround(cfg Config, service string, revision uint64, what func()) (before, after *placement.Request) {
	l := newLoop(cfg)
	read := func(r *raftstore.ReadTx) error {
		before, after = after, l.request(r, service, revision)
		return nil
	}
	_ = cfg.Store.View(read)
	what()
	_ = cfg.Store.View(read)
	return before, after
}
