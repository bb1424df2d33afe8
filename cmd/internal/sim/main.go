// Sim measures what a cluster's managers can carry. It starts real managers in
// a lab (real processes, sealed and synced storage), joins any number of nodes
// to them by the real join, each with a key and a certificate of its own, and
// lets each hold a real session over mutual TLS. Only containers are not there:
// a node reports as running whatever it is told to run.
//
// It prints one line of figures and removes what it made:
//
//	go run ./cmd/internal/sim --bin bin --agents 100 --tasks 10000
//	tasks=10000 agents=100 managers=1 create→all RUNNING 1.53s manager CPU 1.60s RSS 75MiB …
//
// It needs root, as labs do.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"time"

	"github.com/redoubt-cluster/redoubt/cmd/internal/apiclient"
	"github.com/redoubt-cluster/redoubt/cmd/internal/control/controlpb"
	"github.com/redoubt-cluster/redoubt/cmd/internal/lab"
	"github.com/redoubt-cluster/redoubt/pki/profile/profilepb"
	"github.com/redoubt-cluster/redoubt/scheduler/schedulerpb"
	"github.com/redoubt-cluster/redoubt/scheduler/taskpb"
)

type options struct {
	bin                     string
	agents, tasks, managers int
	revoke, reports         int
	rest                    time.Duration
	timeout                 time.Duration
	remove, kill, trace     bool
	root                    bool
	services                int
	docker                  string
}

func main() {
	var o options
	flag.StringVar(&o.bin, "bin", "bin", "directory of Redoubt's binaries")
	flag.IntVar(&o.agents, "agents", 100, "number of nodes")
	flag.IntVar(&o.tasks, "tasks", 10_000, "replicas of the service")
	flag.IntVar(&o.managers, "managers", 1, "number of managers")
	flag.DurationVar(&o.rest, "rest", 10*time.Second, "how long to watch the cluster at rest")
	flag.DurationVar(&o.timeout, "timeout", 10*time.Minute, "give up after this")
	flag.BoolVar(&o.remove, "remove", false, "also measure the removal of the service")
	flag.IntVar(&o.revoke, "revoke", 0, "also revoke so many nodes and workload identities, one after the other, and measure when that is felt")
	flag.IntVar(&o.reports, "reports", 0, "also have so many compliance reports of the cluster and all nodes made and signed, one after the other")
	flag.BoolVar(&o.root, "rotate-root", false, "also replace the root, and measure until no node trusts the one of before")
	flag.BoolVar(&o.kill, "kill-leader", false, "also kill the leader's redoubtd and measure until all is as before; with 3 managers at least")
	flag.BoolVar(&o.trace, "trace", false, "write every second how many sessions there are, until all are up and after the leader was killed, and why others ended")
	flag.IntVar(&o.services, "services", 0, "also make so many services of 10 tasks, and measure how long the docker command takes to list them")
	flag.StringVar(&o.docker, "docker", "docker", "the docker command for that")
	flag.Parse()
	if flag.NArg() > 0 {
		fmt.Fprintf(os.Stderr, "sim: unknown argument %q\n", flag.Arg(0))
		os.Exit(2)
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, o); err != nil {
		fmt.Fprintln(os.Stderr, "sim:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, o options) (err error) {
	ctx, cancel := context.WithTimeout(ctx, o.timeout)
	defer cancel()
	name := fmt.Sprintf("sim-%d", os.Getpid())
	l, err := lab.Up(ctx, lab.Options{Name: name, Managers: o.managers, BinDir: o.bin})
	defer func() { err = errors.Join(err, lab.Down(context.WithoutCancel(ctx), name)) }()
	if err != nil {
		return err
	}
	c, err := apiclient.Dial(ctx, l.APISocket(l.Hosts[0]))
	if err != nil {
		return err
	}
	defer func() { c.Close() }()
	empty, err := measure(l)
	if err != nil {
		return err
	}
	token, _, err := apiclient.CreateToken(ctx, c, &controlpb.CreateTokenRequest{Role: profilepb.Role_ROLE_WORKER, LongLived: true})
	if err != nil {
		return apiclient.Err(err)
	}
	var managers []string
	for _, h := range l.Hosts {
		managers = append(managers, fmt.Sprintf("%s:2377", l.Addr(h)))
	}
	from, err := newSources()
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, from.close()) }()
	f := newFleet(managers, from)
	joining := time.Now()
	if err := f.join(ctx, token, o.agents); err != nil {
		return err
	}
	joined := time.Since(joining)
	fctx, end := context.WithCancel(ctx)
	defer f.wait()
	defer end()
	f.start(fctx)
	stop := func() {}
	if o.trace {
		fmt.Fprintf(os.Stderr, "%d nodes joined in %.1fs\n", o.agents, joined.Seconds())
		stop = f.trace(ctx, os.Stderr)
	}
	defer func() { stop() }()
	if err := await(ctx, 100*time.Millisecond, func() (bool, error) {
		resp, err := c.GetStatus(ctx, &controlpb.GetStatusRequest{})
		return int(resp.GetNodesReady()) == o.agents+o.managers, err
	}); err != nil {
		return fmt.Errorf("the nodes did not come up: %w", err)
	}
	stop()
	stop = func() {}
	idle, err := measure(l)
	if err != nil {
		return err
	}
	took, err := converge(ctx, c, f, o.tasks)
	if err != nil {
		return err
	}
	loaded, err := measure(l)
	if err != nil {
		return err
	}
	entries, err := atRest(ctx, l, o.rest)
	if err != nil {
		return err
	}
	settled, err := measure(l)
	if err != nil {
		return err
	}
	fmt.Printf("tasks=%d agents=%d managers=%d create→all RUNNING %.2fs manager CPU %.2fs RSS %dMiB peak %dMiB at rest %dMiB idle before %dMiB (%.1f KiB a task, %.1f KiB a node) joins %.1fs entries at rest %.0f in %v\n",
		o.tasks, o.agents, o.managers, took.Seconds(), (loaded.cpu - idle.cpu).Seconds(), loaded.rss>>20, settled.peak>>20, settled.rss>>20, idle.rss>>20,
		float64(settled.rss-idle.rss)/1024/float64(max(1, o.tasks)), float64(idle.rss-empty.rss)/1024/float64(max(1, o.agents)), joined.Seconds(), entries, o.rest)
	if o.services > 0 {
		if err := listed(ctx, l, c, f, o.docker, o.services); err != nil {
			return err
		}
	}
	if o.reports > 0 {
		if err := reports(ctx, l, c, o.agents+o.managers, o.reports); err != nil {
			return err
		}
	}
	if o.kill {
		if err := killLeader(ctx, l, f, o.tasks, o.trace); err != nil {
			return err
		}
		c.Close()
		if c, err = l.AnyManager(ctx); err != nil {
			return err
		}
	}
	if o.root {
		if err := rotate(ctx, l, c, f, o.managers); err != nil {
			return err
		}
	}
	if o.revoke > 0 {
		if err := revoke(ctx, c, f, o.revoke); err != nil {
			return err
		}
	}
	if o.remove {
		gone, err := remove(ctx, c, f)
		if err != nil {
			return err
		}
		fmt.Printf("tasks=%d removed %.2fs\n", o.tasks, gone.Seconds())
	}
	return nil
}

// serviceName is the one service there is.
const serviceName = "sim"

// converge creates the service and returns how long it took until the managers
// had every task on record as running.
func converge(ctx context.Context, c *apiclient.Client, f *fleet, tasks int) (time.Duration, error) {
	began := time.Now()
	_, err := c.CreateService(ctx, &controlpb.CreateServiceRequest{Spec: &schedulerpb.ServiceSpec{
		Name: serviceName,
		Mode: &schedulerpb.ServiceSpec_Replicated{Replicated: &schedulerpb.Replicated{Replicas: uint64(tasks)}},
		Task: &taskpb.TaskSpec{Container: &taskpb.ContainerSpec{Image: "sim.invalid/noop@sha256:" + strings.Repeat("0", 64)}},
	}})
	if err != nil {
		return 0, apiclient.Err(err)
	}
	// The managers are asked only once the nodes have said it all, as asking
	// costs them the counting.
	err = await(ctx, 5*time.Millisecond, func() (bool, error) { return f.running.Load() >= int64(tasks), nil })
	if err == nil {
		every := 20*time.Millisecond + time.Duration(tasks)*2*time.Microsecond
		err = await(ctx, every, func() (bool, error) {
			resp, err := c.ListServices(ctx, &controlpb.ListServicesRequest{})
			return err == nil && resp.GetServices()[0].GetRunning() == uint64(tasks), err
		})
	}
	if err != nil {
		return 0, fmt.Errorf("%d of %d tasks run on %d nodes with a session, %d more on nodes that are cut off: %w",
			f.running.Load(), tasks, f.sessions.Load(), f.cutOff.Load(), err)
	}
	return time.Since(began), nil
}

func remove(ctx context.Context, c *apiclient.Client, f *fleet) (time.Duration, error) {
	began := time.Now()
	if _, err := c.RemoveService(ctx, &controlpb.RemoveServiceRequest{Service: serviceName}); err != nil {
		return 0, apiclient.Err(err)
	}
	err := await(ctx, 20*time.Millisecond, func() (bool, error) { return f.assigned() == 0, nil })
	return time.Since(began), err
}

// await asks cond until it holds. Polling is what a measurement from outside
// can do; what it adds is below the figures' last digit.
func await(ctx context.Context, every time.Duration, cond func() (bool, error)) error {
	t := time.NewTicker(every)
	defer t.Stop()
	for {
		ok, err := cond()
		if ok {
			return nil
		}
		select {
		case <-t.C:
		case <-ctx.Done():
			return errors.Join(ctx.Err(), err)
		}
	}
}
