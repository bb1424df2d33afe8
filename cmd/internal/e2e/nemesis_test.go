package e2e

import (
	"context"
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"sync"
	"syscall"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/redoubt-cluster/redoubt/cmd/internal/apiclient"
	"github.com/redoubt-cluster/redoubt/cmd/internal/control/apierr"
	"github.com/redoubt-cluster/redoubt/cmd/internal/control/controlpb"
	"github.com/redoubt-cluster/redoubt/raftstore/raftstoretest/linear"
	"github.com/redoubt-cluster/redoubt/scheduler/schedulerpb"
	"github.com/redoubt-cluster/redoubt/scheduler/taskpb"
)

// The nemesis: clients of every manager create, read, change and remove the same
// few services through the control API, while daemons are killed and stopped,
// hosts lose power and cables are pulled; what the clients saw must be
// linearizable. It goes in rounds, each with names of its own, so that the
// operations of which nobody knows the outcome stay few in each history.
//
//	REDOUBT_NEMESIS_MINUTES=30 go test -run TestNemesis -timeout 2h ./cmd/internal/e2e/   (make nemesis MINUTES=30)
//
// With daemons whose clocks can be set (clock_helpers_test.go, as make nemesis has
// them) clocks jump by up to an hour, either way.
const (
	nemesisEnv     = "REDOUBT_NEMESIS_MINUTES"
	nemesisClock   = "clock"
	nemesisRound   = 8 * time.Second
	nemesisClients = 6
	nemesisKeys    = 3
	nemesisCall    = 4 * time.Second // what a client waits for one answer
)

func TestNemesis(t *testing.T) {
	rounds, end, managers := 3, time.Time{}, 3
	if s := os.Getenv(nemesisEnv); s != "" {
		m, err := strconv.ParseFloat(s, 64)
		if err != nil || m <= 0 {
			t.Fatalf("%s=%q: a number of minutes is wanted", nemesisEnv, s)
		}
		rounds, end, managers = 1<<30, time.Now().Add(time.Duration(m*float64(time.Minute))), 5
	}
	seed := uint64(time.Now().UnixNano())
	clocks := os.Getenv(shiftedEnv) != ""
	if clocks {
		useShifted(t) // which every test would use
	} else {
		t.Parallel()
	}
	n := &nemesis{clocks: clocks, c: up(t, "nemesis", managers, 0), rand: rand.New(rand.NewPCG(seed, 0)), faults: map[string]int{}}
	n.c.load()
	n.managers = n.c.hosts()
	if n.clocks {
		n.c.settableClocks()
	}
	start := time.Now()
	for round := range rounds {
		if !end.IsZero() && time.Now().After(end) {
			break
		}
		n.round(t, round)
		if t.Failed() {
			t.Fatalf("in round %d, seed %d", round, seed)
		}
	}
	var kinds []string
	for _, k := range slices.Sorted(maps.Keys(n.faults)) {
		kinds = append(kinds, fmt.Sprintf("%s=%d", k, n.faults[k]))
	}
	t.Logf("nemesis: minutes=%.1f managers=%d operations=%d unknown=%d refused=%d faults=%v result=linearizable",
		time.Since(start).Minutes(), managers, n.done, n.unknown, n.refused, kinds)
	if n.done == 0 {
		t.Error("no operation was done: this proves nothing")
	}
}

type nemesis struct {
	c        *cluster
	managers []host
	rand     *rand.Rand
	faults   map[string]int
	clocks   bool     // can be set
	deck     []string // kinds of faults that are still to come before one is repeated

	mu                     sync.Mutex // guards the rest
	done, unknown, refused int
}

// nemesisFaults are done to one or more managers, never to a majority for good,
// and are undone by what they return.
var nemesisFaults = map[string]func(*nemesis, host) (undo func()){
	"kill-redoubtd": func(n *nemesis, h host) func() { return n.signal(h, "redoubtd", syscall.SIGKILL) },
	"kill-keyd": func(n *nemesis, h host) func() {
		n.signal(h, "redoubt-keyd", syscall.SIGKILL)
		return func() { n.c.unlock(h.Name) }
	},
	"pause": func(n *nemesis, h host) func() {
		n.signal(h, "redoubtd", syscall.SIGSTOP)
		return func() { n.signal(h, "redoubtd", syscall.SIGCONT) }
	},
	nemesisClock: func(n *nemesis, h host) func() {
		n.c.setClock(h, time.Duration(n.rand.Int64N(int64(2*time.Hour)))-time.Hour)
		return func() { n.c.setClock(h, 0) }
	},
	"cut": func(n *nemesis, h host) func() { n.c.lab("cut", h.Name); return func() { n.c.lab("heal") } },
	"split": func(n *nemesis, h host) func() {
		with := []string{"--together", h.Name}
		for _, o := range n.managers {
			if o.Name != h.Name && len(with) <= len(n.managers)/2 {
				with = append(with, o.Name)
			}
		}
		n.c.lab("cut", with...)
		return func() { n.c.lab("heal") }
	},
	"crash": func(n *nemesis, h host) func() {
		n.c.lab("kill", h.Name)
		return func() { n.c.lab("start", h.Name); n.c.unlock(h.Name) }
	},
	// Leadership is handed over where the one that stops leads.
	"stop": func(n *nemesis, h host) func() {
		n.c.lab("stop", h.Name)
		return func() { n.c.lab("start", h.Name); n.c.unlock(h.Name) }
	},
}

func (n *nemesis) signal(h host, daemon string, sig syscall.Signal) func() {
	if pid := n.c.daemons(h)[daemon]; pid != 0 {
		if err := syscall.Kill(pid, sig); err != nil {
			n.c.t.Error(err)
		}
	}
	return func() {}
}

func (n *nemesis) round(t *testing.T, round int) {
	var h linear.History
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	var clients sync.WaitGroup
	for i := range nemesisClients {
		k := &nemesisClient{
			n: n, h: &h, id: i, round: round, rand: rand.New(rand.NewPCG(n.rand.Uint64(), 1)),
			api: filepath.Join(n.managers[i%len(n.managers)].RunDir, apiclient.APISocket), seen: map[string]*schedulerpb.Service{},
		}
		clients.Go(func() { k.run(ctx) })
	}
	for until := time.Now().Add(nemesisRound); time.Now().Before(until); {
		n.wait(time.Second)
		name := n.next()
		victim := n.managers[n.rand.IntN(len(n.managers))]
		if n.rand.IntN(2) == 0 {
			if l := n.leaderNow(); l != "" {
				victim = n.c.host(l)
			}
		}
		n.faults[name]++
		undo := nemesisFaults[name](n, victim)
		n.wait(3 * time.Second)
		undo()
	}
	n.wait(2 * time.Second)
	cancel()
	clients.Wait()
	h.Check(t)
	n.clear(round)
}

// next draws the next kind of fault: all of them come equally often.
func (n *nemesis) next() string {
	if len(n.deck) == 0 {
		n.deck = slices.Sorted(maps.Keys(nemesisFaults))
		n.deck = slices.DeleteFunc(n.deck, func(name string) bool { return name == nemesisClock && !n.clocks })
		n.rand.Shuffle(len(n.deck), func(i, j int) { n.deck[i], n.deck[j] = n.deck[j], n.deck[i] })
	}
	name := n.deck[0]
	n.deck = n.deck[1:]
	return name
}

// wait lets up to d pass: when a fault comes is what is varied.
func (n *nemesis) wait(d time.Duration) {
	<-time.After(time.Duration(n.rand.Int64N(int64(d))))
}

// leaderNow names the leader, or nobody: it does not wait for one.
func (n *nemesis) leaderNow() string {
	r := n.c.on(n.managers[n.rand.IntN(len(n.managers))].Name, "node", "ls", "--format", "json")
	if r.code != 0 {
		return ""
	}
	var nodes []nodeJSON
	n.c.decode(r.stdout, &nodes)
	for _, m := range nodes {
		if m.Leader {
			return m.Hostname
		}
	}
	return ""
}

// clear removes what a round made.
func (n *nemesis) clear(round int) {
	for k := range nemesisKeys {
		name := nemesisKey(round, k)
		eventually(n.c.t, time.Minute, func() string {
			if r := n.c.on(n.managers[0].Name, "service", "rm", name); r.code != 0 && n.c.on(n.managers[0].Name, "service", "inspect", name).code == 0 {
				return r.String()
			}
			return ""
		})
	}
}

func nemesisKey(round, k int) string { return fmt.Sprintf("r%d-k%d", round, k) }

// nemesisClient uses one manager's socket, one operation after the other.
type nemesisClient struct {
	n         *nemesis
	h         *linear.History
	id, round int
	count     int
	rand      *rand.Rand
	api       string
	conn      *apiclient.Client
	seen      map[string]*schedulerpb.Service // what it read last
}

func (k *nemesisClient) run(ctx context.Context) {
	defer k.hangUp()
	for ctx.Err() == nil {
		if k.conn == nil {
			dctx, cancel := context.WithTimeout(ctx, nemesisCall)
			c, err := apiclient.Dial(dctx, k.api)
			cancel()
			if err != nil {
				select {
				case <-time.After(100 * time.Millisecond):
				case <-ctx.Done():
				}
				continue
			}
			k.conn = c
		}
		k.one()
		select {
		case <-time.After(time.Duration(k.rand.IntN(80)) * time.Millisecond):
		case <-ctx.Done():
		}
	}
}

func (k *nemesisClient) hangUp() {
	if k.conn != nil {
		_ = k.conn.Close() // another is made
		k.conn = nil
	}
}

const nemesisLabel = "value"

func (k *nemesisClient) one() {
	k.count++
	in := linear.Input{Key: nemesisKey(k.round, k.rand.IntN(nemesisKeys)), Value: fmt.Sprintf("%d.%d", k.id, k.count)}
	old := k.seen[in.Key]
	switch p := k.rand.IntN(10); {
	case p < 4 || p < 8 && old == nil:
		in.Kind = linear.Read
	case p < 8:
		in.Kind, in.Expect = linear.CAS, old.GetSpec().GetLabels()[nemesisLabel]
	case p < 9:
		in.Kind = linear.Create
	default:
		if k.rand.IntN(3) > 0 { // more often there than not
			in.Kind = linear.Create
		} else {
			in.Kind = linear.Delete
		}
	}
	ctx, cancel := context.WithTimeout(context.Background(), nemesisCall)
	defer cancel()
	call := k.h.Begin()
	out, err := k.ask(ctx, in, old)
	reason := apierr.ReasonOf(apiclient.Err(err))
	switch {
	case err == nil:
		out.OK = in.Kind != linear.Read || out.OK
	case reason == apierr.ReasonNotFound && in.Kind != linear.Create, reason == apierr.ReasonExists && in.Kind == linear.Create,
		reason == apierr.ReasonConflict && in.Kind == linear.CAS:
		out = linear.Output{} // an answer: the condition does not hold
	case in.Kind == linear.Read, reason == apierr.ReasonNoLeader, reason == apierr.ReasonLocked, reason == apierr.ReasonLimited, reason == apierr.ReasonConflict:
		// It says that nothing was done. Were that a lie, a value would be seen
		// that nobody wrote.
		k.tally(&k.n.refused)
		k.hangUp()
		return
	default:
		out = linear.Output{Unknown: true}
		k.tally(&k.n.unknown)
		k.hangUp()
		k.h.End(k.id, call, in, out)
		return
	}
	k.tally(&k.n.done)
	k.h.End(k.id, call, in, out)
}

func (k *nemesisClient) tally(which *int) {
	k.n.mu.Lock()
	defer k.n.mu.Unlock()
	*which++
}

func (k *nemesisClient) ask(ctx context.Context, in linear.Input, old *schedulerpb.Service) (out linear.Output, err error) {
	spec := &schedulerpb.ServiceSpec{
		Name: in.Key, Labels: map[string]string{nemesisLabel: in.Value},
		Mode: &schedulerpb.ServiceSpec_Replicated{Replicated: &schedulerpb.Replicated{}}, Task: &taskpb.TaskSpec{Container: &taskpb.ContainerSpec{Image: image}},
	}
	switch in.Kind {
	case linear.Read:
		r, err := k.conn.ListServices(ctx, &controlpb.ListServicesRequest{Services: []string{in.Key}})
		if err != nil {
			return out, err
		}
		s := r.GetServices()[0].GetService()
		k.seen[in.Key] = s
		return linear.Output{OK: true, Value: s.GetSpec().GetLabels()[nemesisLabel], Version: s.GetMeta().GetVersion()}, nil
	case linear.CAS:
		next := proto.CloneOf(old.GetSpec())
		next.Labels[nemesisLabel] = in.Value
		_, err = k.conn.UpdateService(ctx, &controlpb.UpdateServiceRequest{Service: old.GetId(), Version: old.GetMeta().GetVersion(), Spec: next})
	case linear.Create:
		_, err = k.conn.CreateService(ctx, &controlpb.CreateServiceRequest{Spec: spec})
	default:
		_, err = k.conn.RemoveService(ctx, &controlpb.RemoveServiceRequest{Service: in.Key})
	}
	return out, err
}
