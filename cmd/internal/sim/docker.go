package main

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/redoubt-cluster/redoubt/cmd/internal/apiclient"
	"github.com/redoubt-cluster/redoubt/cmd/internal/control/controlpb"
	"github.com/redoubt-cluster/redoubt/cmd/internal/lab"
	"github.com/redoubt-cluster/redoubt/scheduler/schedulerpb"
	"github.com/redoubt-cluster/redoubt/scheduler/taskpb"
)

// replicasListed are the tasks of each service that is made to be listed.
const replicasListed = 10

// listed makes so many services and prints how long the docker command takes to list
// them, and their tasks, and what that adds to the manager's memory.
func listed(ctx context.Context, l *lab.Lab, c *apiclient.Client, f *fleet, docker string, services int) error {
	before := f.running.Load()
	g, gctx := errgroup.WithContext(ctx)
	g.SetLimit(16)
	for i := range services {
		g.Go(func() error {
			_, err := c.CreateService(gctx, &controlpb.CreateServiceRequest{Spec: &schedulerpb.ServiceSpec{
				Name: fmt.Sprintf("listed-%d", i), Labels: map[string]string{"team": "web"},
				Mode: &schedulerpb.ServiceSpec_Replicated{Replicated: &schedulerpb.Replicated{Replicas: replicasListed}},
				Task: &taskpb.TaskSpec{Container: &taskpb.ContainerSpec{Image: "sim.invalid/noop@sha256:" + strings.Repeat("0", 64), Env: []string{"A=b", "C=d"}}},
			}})
			return apiclient.Err(err)
		})
	}
	if err := g.Wait(); err != nil {
		return err
	}
	want := before + int64(services*replicasListed)
	if err := await(ctx, 50*time.Millisecond, func() (bool, error) { return f.running.Load() >= want, nil }); err != nil {
		return err
	}
	socket := filepath.Join(filepath.Dir(l.APISocket(l.Hosts[0])), "docker.sock")
	for _, what := range []struct {
		name string
		argv []string
	}{
		{"docker service ls", []string{docker, "service", "ls"}},
		{"docker node ps (all tasks of one node)", []string{docker, "node", "ps", "--no-resolve", "-q", f.nodes[0].name}},
		{"GET /services?status=true", []string{"curl", "-sf", "-o", "/dev/null", "--unix-socket", socket, "http://d/v1.44/services?status=true"}},
		{"GET /tasks", []string{"curl", "-sf", "-o", "/dev/null", "--unix-socket", socket, "http://d/v1.44/tasks"}},
	} {
		idle, err := measure(l)
		if err != nil {
			return err
		}
		var took []time.Duration
		for range 11 {
			cmd := exec.CommandContext(ctx, what.argv[0], what.argv[1:]...)
			cmd.Env = append(os.Environ(), "DOCKER_HOST=unix://"+socket)
			began := time.Now()
			if out, err := cmd.CombinedOutput(); err != nil {
				return fmt.Errorf("%s: %w: %.500s", what.name, err, out)
			}
			took = append(took, time.Since(began))
		}
		loaded, err := measure(l)
		if err != nil {
			return err
		}
		slices.Sort(took)
		fmt.Printf("services=%d tasks=%d %s: median %v (%v–%v) of %d, manager RSS %d → %dMiB\n", services, services*replicasListed, what.name,
			took[len(took)/2].Round(time.Millisecond), took[0].Round(time.Millisecond), took[len(took)-1].Round(time.Millisecond), len(took), idle.rss>>20, loaded.rss>>20)
	}
	return nil
}
