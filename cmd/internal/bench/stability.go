package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"regexp"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/redoubt-cluster/redoubt/cmd/internal/apiclient"
	"github.com/redoubt-cluster/redoubt/cmd/internal/control/controlpb"
	"github.com/redoubt-cluster/redoubt/cmd/internal/lab"
)

// A leader is not to be given up because its machine is busy. Here every core is
// taken several times over by processes of the same priority, and the managers,
// which share them, serve writes meanwhile. An election is seen in the term:
// every one raises it, also one that the same manager wins again.

// spinVerb makes this program one of the processes that use a core.
const spinVerb = "spin"

// lateNote is from when on a late timer is told of.
const lateNote = 150 * time.Millisecond

func spin() {
	for n := uint64(0); ; n++ {
		spun.Store(n)
	}
}

var spun atomic.Uint64 // kept, so that the loop is not nothing

func (c *cluster) stability(ctx context.Context) (err error) {
	leader, _, err := c.leader(ctx)
	if err != nil {
		return err
	}
	before, err := c.terms(ctx)
	if err != nil {
		return err
	}
	stop, err := spinners(c.o.spinners)
	if err != nil {
		return err
	}
	defer stop()
	watch := c.watchTerms(ctx, before)
	late := watchTimer(ctx)
	l, failed, err := c.writeOver(ctx, leader)
	found, worst := watch(), late()
	if err != nil {
		return err
	}
	now, _, lerr := c.leader(ctx)
	after, terr := c.terms(ctx)
	if err := errors.Join(lerr, terr); err != nil {
		return err
	}
	elections := slices.Max(after) - slices.Min(before)
	verdict := "stable"
	if elections != 0 || now != leader {
		verdict = "UNSTABLE"
	}
	fmt.Printf("%s minutes=%.1f managers=%d cpus=%d spinners=%d load=%s late-timer=%v writes: %v failed=%d leader=%s->%s term=%d->%d elections=%d\n", verdict, c.o.window.Minutes(),
		c.o.managers, runtime.NumCPU(), c.o.spinners, loadAverage(), worst.Round(time.Millisecond), l, failed, leader.Name, now.Name, slices.Min(before), slices.Max(after), elections)
	if verdict != "stable" {
		c.showElections()
		return fmt.Errorf("the managers elected without need: %s", strings.Join(found, "; "))
	}
	return nil
}

// showElections prints what the managers' stores said of them.
func (c *cluster) showElections() {
	telling := regexp.MustCompile(`"part":"store"|pre-vote|election|lease|heartbeat`)
	for _, h := range c.lab.Hosts {
		b, err := os.ReadFile(c.lab.LogFile(h, "redoubt-node"))
		if err != nil {
			continue
		}
		var lines []string
		for line := range strings.Lines(string(b)) {
			if telling.MatchString(line) {
				lines = append(lines, line)
			}
		}
		fmt.Fprintf(os.Stderr, "== %s\n%s", h.Name, strings.Join(lines[max(0, len(lines)-20):], ""))
	}
}

// writeOver has each client change a service of its own until the window's end,
// so that the store stays small. A write that fails is counted.
func (c *cluster) writeOver(ctx context.Context, h lab.Host) (l *latencies, failed int64, err error) {
	var conns []*apiclient.Client
	defer func() { closeAll(conns) }()
	for range c.o.conns {
		conn, err := apiclient.Dial(ctx, c.lab.APISocket(h))
		if err != nil {
			return nil, 0, err
		}
		conns = append(conns, conn)
	}
	for n := range c.o.clients {
		if _, err := conns[0].CreateService(ctx, c.service(fmt.Sprintf("stable-%d", n))); err != nil {
			return nil, 0, apiclient.Err(err)
		}
	}
	var count atomic.Int64
	l, err = load(ctx, c.o.clients, c.o.window, func(ctx context.Context, client, n int) error {
		ctx, cancel := context.WithTimeout(ctx, time.Minute)
		defer cancel()
		if err := c.change(ctx, conns[client%len(conns)], fmt.Sprintf("stable-%d", client), n); err != nil {
			count.Add(1)
		}
		return ctx.Err()
	})
	return l, count.Load(), err
}

// change writes a label of a service.
func (c *cluster) change(ctx context.Context, api *apiclient.Client, name string, n int) error {
	r, err := api.ListServices(ctx, &controlpb.ListServicesRequest{Services: []string{name}})
	if err != nil {
		return err
	}
	s := r.GetServices()[0].GetService()
	s.Spec.Labels["round"] = strconv.Itoa(n)
	_, err = api.UpdateService(ctx, &controlpb.UpdateServiceRequest{Service: s.GetId(), Version: s.GetMeta().GetVersion(), Spec: s.GetSpec()})
	return err
}

// spinners starts n processes that use a core each; they end with this one.
func spinners(n int) (stop func(), err error) {
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	var all []*exec.Cmd
	stop = func() {
		for _, cmd := range all {
			_ = cmd.Process.Kill()
			_ = cmd.Wait() // killed
		}
	}
	for range n {
		cmd := exec.Command(self, spinVerb)
		cmd.Env = append(os.Environ(), "GOMAXPROCS=1")
		cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
		if err := cmd.Start(); err != nil {
			stop()
			return nil, err
		}
		all = append(all, cmd)
	}
	return stop, nil
}

// watchTimer measures how late a timer of this program came at worst: it
// shares no fault with a manager, so what it meets is the machine's doing.
func watchTimer(ctx context.Context) (worst func() time.Duration) {
	const every = 10 * time.Millisecond
	ctx, cancel := context.WithCancel(ctx)
	var late time.Duration
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			begun := time.Now()
			select {
			case <-time.After(every):
			case <-ctx.Done():
				return
			}
			if d := time.Since(begun) - every; d > late {
				if late = d; d > lateNote {
					fmt.Fprintf(os.Stderr, "%s a timer came %v late\n", time.Now().UTC().Format(time.RFC3339Nano), d.Round(time.Millisecond))
				}
			}
		}
	})
	return func() time.Duration {
		cancel()
		wg.Wait()
		return late
	}
}

// watchTerms notes when a manager was seen in another term than before, until
// the function that it returns is called, which gives the notes.
func (c *cluster) watchTerms(ctx context.Context, before []uint64) (end func() []string) {
	ctx, cancel := context.WithCancel(ctx)
	var notes []string
	var wg sync.WaitGroup
	wg.Go(func() {
		seen, begun, tick := slices.Clone(before), time.Now(), time.NewTicker(time.Second)
		defer tick.Stop()
		for {
			select {
			case <-tick.C:
			case <-ctx.Done():
				return
			}
			now, err := c.terms(ctx)
			if err != nil {
				continue // slow; asked again
			}
			for i, term := range now {
				if term != seen[i] {
					notes = append(notes, fmt.Sprintf("%s was in term %d after %v", c.lab.Hosts[i].Name, term, time.Since(begun).Round(time.Second)))
				}
			}
			seen = now
		}
	})
	return func() []string {
		cancel()
		wg.Wait()
		return notes
	}
}

// terms are the managers' terms.
func (c *cluster) terms(ctx context.Context) (all []uint64, err error) {
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	for _, h := range c.lab.Hosts {
		term, err := c.lab.Metric(ctx, h, "redoubt_raft_term")
		if err != nil {
			return nil, fmt.Errorf("the term of %s: %w", h.Name, err)
		}
		all = append(all, uint64(term))
	}
	return all, nil
}

func loadAverage() string {
	b, _ := os.ReadFile("/proc/loadavg")
	first, _, _ := strings.Cut(string(b), " ")
	return first
}
