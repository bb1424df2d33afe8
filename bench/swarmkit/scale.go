package main

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"strconv"
	"time"

	"github.com/moby/swarmkit/v2/api"
	"github.com/moby/swarmkit/v2/identity"
	"github.com/moby/swarmkit/v2/manager/scheduler"
	"github.com/moby/swarmkit/v2/manager/state"
	"github.com/moby/swarmkit/v2/manager/state/store"
)

// place runs SwarmKit's own scheduler benchmark (benchScheduler in its
// scheduler_test.go, without constraints) at any size: an unreplicated store in
// memory, the clock running from the commit of nodes and pending tasks until
// every task was given a node.
func place(ctx context.Context, o options) error {
	s := store.NewMemoryStore(nil)
	defer s.Close()
	sch := scheduler.New(s)
	watch, cancel := state.Watch(s.WatchQueue(), api.EventUpdateTask{})
	defer cancel()
	ended := make(chan error, 1)
	go func() { ended <- sch.Run(ctx) }()
	var start time.Time
	err := s.Update(func(tx store.Tx) error {
		for i := range o.nodes {
			n := &api.Node{ID: identity.NewID(),
				Spec:        api.NodeSpec{Annotations: api.Annotations{Name: "name" + strconv.Itoa(i), Labels: map[string]string{}}},
				Status:      api.NodeStatus{State: api.NodeStatus_READY},
				Description: &api.NodeDescription{Engine: &api.EngineDescription{}}}
			if err := store.CreateNode(tx, n); err != nil {
				return err
			}
		}
		for i := range o.tasks {
			id := "task" + strconv.Itoa(i)
			t := &api.Task{ID: id, DesiredState: api.TaskStateRunning, ServiceAnnotations: api.Annotations{Name: id},
				Status: api.TaskStatus{State: api.TaskStatePending}}
			if err := store.CreateTask(tx, t); err != nil {
				return err
			}
		}
		start = time.Now()
		return nil
	})
	if err != nil {
		return err
	}
	for range o.tasks {
		select {
		case <-watch:
		case err := <-ended:
			return fmt.Errorf("the scheduler ended: %w", err)
		}
	}
	fmt.Printf("placed=%d nodes=%d took=%.3fs\n", o.tasks, o.nodes, time.Since(start).Seconds())
	sch.Stop()
	return <-ended
}

// tasks scales a service to o.tasks on agents that do nothing, over real
// sessions, and waits until the manager knows all of them as running.
func (c *cluster) tasks(ctx context.Context) error {
	control := c.members[0].control
	var err error
	c.agents, err = spawn(c.dir, "agents", "agents", "-n", strconv.Itoa(c.o.agents), "-dir", filepath.Join(c.dir, "agents"),
		"-join", c.members[0].address, "-token", c.workers)
	if err != nil {
		return err
	}
	err = await(ctx, "the agents do not come up (logs in "+c.dir+")", func(ctx context.Context) error {
		r, err := control.ListNodes(ctx, &api.ListNodesRequest{})
		if err != nil {
			return err
		}
		ready := 0
		for _, n := range r.Nodes {
			if n.Role == api.NodeRoleWorker && n.Status.State == api.NodeStatus_READY {
				ready++
			}
		}
		if ready < c.o.agents {
			return fmt.Errorf("%d of %d are ready", ready, c.o.agents)
		}
		return nil
	})
	if err != nil {
		return err
	}
	start := time.Now()
	created, err := control.CreateService(ctx, &api.CreateServiceRequest{Spec: serviceSpec("crowd", uint64(c.o.tasks), "")})
	if err != nil {
		return err
	}
	peak, running, all := 0, uint64(0), false
	for !all && time.Since(start) < c.o.patience {
		select {
		case <-time.After(50 * time.Millisecond):
		case <-ctx.Done():
			return ctx.Err()
		}
		r, err := control.ListServiceStatuses(ctx, &api.ListServiceStatusesRequest{Services: []string{created.Service.ID}})
		if err != nil {
			return err
		}
		if len(r.Statuses) != 1 {
			return errors.New("the service has no status")
		}
		running = r.Statuses[0].RunningTasks
		all = running >= uint64(c.o.tasks)
		mib, err := residentMiB(c.members[0].process.pid())
		if err != nil {
			return err
		}
		peak = max(peak, mib)
	}
	took := time.Since(start)
	if !all {
		fmt.Printf("running=%d of=%d agents=%d gave-up-after=%.1fs manager-peak=%dMiB\n", running, c.o.tasks, c.o.agents, took.Seconds(), peak)
		return nil
	}
	fmt.Printf("running=%d agents=%d took=%.2fs manager-peak=%dMiB\n", running, c.o.agents, took.Seconds(), peak)
	return nil
}
