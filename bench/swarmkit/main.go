// Command swarmkit measures SwarmKit as bench/ measures Redoubt: a real cluster
// of node processes on loopback, mutual TLS between them, encrypted raft logs
// with autolock on, a real disk with fsync, written to through its control API.
//
//	swarmkit store    [-managers 3] [-clients 64] [-conns 8] [-size 1024] [-seconds 10] [-kind config|service]
//	swarmkit failover [-managers 3] [-rounds 10] [-how kill|stop]
//	swarmkit place    [-nodes 1000] [-tasks 1000]
//	swarmkit tasks    [-agents 100] [-tasks 10000] [-patience 5m]
//
// store creates configs of 1 KiB by default, the cheapest object it has: one
// write each, that no orchestrator or allocator looks at. Clients use the
// leader's control socket, where SwarmKit is fastest. It has no linearizable
// read, so there is nothing to compare.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"strings"
	"syscall"
	"time"

	"github.com/moby/swarmkit/v2/api"
	"github.com/moby/swarmkit/v2/log"
	"github.com/sirupsen/logrus"
)

type options struct {
	managers, clients, conns, size, rounds int
	nodes, tasks, agents                   int
	window, patience                       time.Duration
	kind, how                              string
}

func main() {
	if err := run(context.Background(), os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "swarmkit:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, args []string) error {
	if len(args) == 0 {
		return errors.New("say what to measure: store, failover, place or tasks")
	}
	switch args[0] { // its own children
	case "member":
		return runMember(ctx, args[1:])
	case "agents":
		return runAgents(ctx, args[1:])
	}
	log.L.Logger.SetLevel(logrus.ErrorLevel)
	var o options
	seconds := 0
	f := flag.NewFlagSet(args[0], flag.ContinueOnError)
	f.IntVar(&o.managers, "managers", 3, "managers")
	f.IntVar(&o.clients, "clients", 64, "concurrent clients")
	f.IntVar(&o.conns, "conns", 8, "connections they share")
	f.IntVar(&o.size, "size", 1024, "bytes of an object")
	f.IntVar(&seconds, "seconds", 10, "length of the measurement")
	f.IntVar(&o.rounds, "rounds", 10, "failover: how often")
	f.StringVar(&o.kind, "kind", "config", "store: create configs, or services without replicas")
	f.StringVar(&o.how, "how", "kill", "failover: kill the leader's process, or stop it (it falls silent)")
	f.IntVar(&o.nodes, "nodes", 1000, "place: nodes")
	f.IntVar(&o.tasks, "tasks", 1000, "place, tasks: tasks")
	f.IntVar(&o.agents, "agents", 100, "tasks: agents that do nothing, in one process")
	f.DurationVar(&o.patience, "patience", 5*time.Minute, "tasks: how long to wait for all of them")
	if err := f.Parse(args[1:]); err != nil {
		return err
	}
	o.window = time.Duration(seconds) * time.Second
	switch args[0] {
	case "place":
		return place(ctx, o)
	case "tasks":
		o.managers = 1
	}
	c, err := newCluster(ctx, o)
	if err != nil {
		return err
	}
	defer c.close()
	switch args[0] {
	case "store":
		return c.store(ctx)
	case "failover":
		return c.failover(ctx)
	case "tasks":
		return c.tasks(ctx)
	}
	return fmt.Errorf("%q cannot be measured here", args[0])
}

func (c *cluster) store(ctx context.Context) error {
	var conns []api.ControlClient
	for range min(c.o.conns, c.o.clients) {
		conn, err := c.members[c.leader].dial()
		if err != nil {
			return err
		}
		defer conn.Close()
		conns = append(conns, api.NewControlClient(conn))
	}
	l, err := load(ctx, c.o.clients, c.o.window, func(ctx context.Context, client, n int) error {
		return c.create(ctx, conns[client%len(conns)], fmt.Sprintf("bench-%d-%d", client, n))
	})
	if err != nil {
		return err
	}
	mib, err := residentMiB(c.members[c.leader].process.pid())
	if err != nil {
		return err
	}
	fmt.Printf("%v leader=%dMiB\n", l, mib)
	return nil
}

// create makes one object of the wanted kind and size.
func (c *cluster) create(ctx context.Context, control api.ControlClient, name string) error {
	if c.o.kind == "service" {
		_, err := control.CreateService(ctx, &api.CreateServiceRequest{Spec: serviceSpec(name, 0, strings.Repeat("v", c.o.size))})
		return err
	}
	_, err := control.CreateConfig(ctx, &api.CreateConfigRequest{Spec: &api.ConfigSpec{
		Annotations: api.Annotations{Name: name}, Data: []byte(strings.Repeat("v", c.o.size))}})
	return err
}

func serviceSpec(name string, replicas uint64, label string) *api.ServiceSpec {
	return &api.ServiceSpec{
		Annotations: api.Annotations{Name: name, Labels: map[string]string{"bench": label}},
		Task:        api.TaskSpec{Runtime: &api.TaskSpec_Container{Container: &api.ContainerSpec{Image: "bench@sha256:" + strings.Repeat("0", 64)}}},
		Mode:        &api.ServiceSpec_Replicated{Replicated: &api.ReplicatedService{Replicas: replicas}},
	}
}

func (c *cluster) failover(ctx context.Context) error {
	var took []time.Duration
	for round := range c.o.rounds {
		victim := c.members[c.leader]
		var others []api.ControlClient
		for _, m := range c.members {
			if m != victim {
				others = append(others, m.control)
			}
		}
		start := time.Now()
		if c.o.how == "stop" {
			if err := victim.process.signal(syscall.SIGSTOP); err != nil {
				return err
			}
		} else {
			victim.process.kill()
			start = time.Now()
		}
		err := firstSuccess(ctx, len(others), func(ctx context.Context, server, try int) error {
			return c.create(ctx, others[server], fmt.Sprintf("failover-%d-%d-%d", round, server, try))
		})
		if err != nil {
			return err
		}
		took = append(took, time.Since(start))
		if c.o.how == "stop" {
			err = victim.process.signal(syscall.SIGCONT)
		} else {
			err = c.start(victim, "")
		}
		if err != nil {
			return err
		}
		if err := c.await(ctx); err != nil {
			return err
		}
	}
	fmt.Println(spread(took))
	return nil
}
