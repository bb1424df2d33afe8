package rund

import (
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/redoubt-cluster/redoubt/scheduler/rund/rundpb"
)

// TestRuntimeKilledAnywhere kills containerd at random moments of the start and
// of the end of five tasks. REDOUBT_RUNTIME_KILLS makes it long,
// REDOUBT_RUNTIME_KILLS_SEED repeats an earlier run's moments.
func TestRuntimeKilledAnywhere(t *testing.T) {
	kills := 4
	if n, err := strconv.Atoi(os.Getenv("REDOUBT_RUNTIME_KILLS")); err == nil && n > 0 {
		kills = n
	}
	seed, err := strconv.ParseUint(os.Getenv("REDOUBT_RUNTIME_KILLS_SEED"), 10, 64)
	if err != nil {
		seed = uint64(time.Now().UnixNano())
	}
	t.Logf("seed %d", seed)
	k := &runtimeKills{node: newNode(t), t: t, rng: rand.New(rand.NewPCG(seed, 0))}
	t.Cleanup(k.explain)
	for len(k.took) < kills {
		k.tasks = nil
		for range 5 {
			k.tasks = append(k.tasks, k.desired())
		}
		k.apply(k.tasks...)
		k.disturb(1200*time.Millisecond, "start", k.awaitAll)
		k.apply()
		k.disturb(600*time.Millisecond, "end", func() { k.awaitEmpty() })
	}
	slices.Sort(k.took)
	t.Logf("%d kills: whole after %v in the median, %v at most; %d tasks were cut in the moment of their start and replaced",
		len(k.took), k.took[len(k.took)/2].Round(10*time.Millisecond), k.took[len(k.took)-1].Round(10*time.Millisecond), k.replaced)
}

type runtimeKills struct {
	*node
	t        *testing.T
	rng      *rand.Rand
	tasks    []*rundpb.TaskDesired
	took     []time.Duration
	replaced int
}

// disturb kills containerd within the given time, starts it again and waits.
func (k *runtimeKills) disturb(within time.Duration, what string, whole func()) {
	moment := time.Duration(k.rng.Int64N(int64(within)))
	<-time.After(moment) // the moment is what is varied
	if err := ctrd.Kill(); err != nil {
		k.t.Fatal(err)
	}
	if err := ctrd.Restart(k.ctx()); err != nil {
		k.t.Fatal(err)
	}
	begun := time.Now()
	whole()
	k.took = append(k.took, time.Since(begun))
	k.t.Logf("#%d %s: killed after %v, whole after %v", len(k.took), what, moment.Round(time.Millisecond), time.Since(begun).Round(time.Millisecond))
}

// awaitAll sees every task run. One whose process was cut off while it was let
// go has ended, and is replaced, as a manager would.
func (k *runtimeKills) awaitAll() {
	for i := 0; i < len(k.tasks); i++ {
		a := k.await(k.tasks[i].GetTaskId(), "the start", func(a *rundpb.TaskActual) bool { return a.GetPhase() >= rundpb.Phase_PHASE_RUNNING })
		switch {
		case a.GetPhase() == rundpb.Phase_PHASE_FAILED && strings.Contains(a.GetError(), "interrupted starting it"):
			k.replaced++
			k.tasks[i] = k.desired()
			k.apply(k.tasks...)
			i--
		case a.GetPhase() != rundpb.Phase_PHASE_RUNNING:
			k.t.Fatalf("a task did not start although nothing is wrong with it: %v", a)
		}
	}
}

// explain shows what rund and containerd say of the last tasks.
func (k *runtimeKills) explain() {
	if !k.t.Failed() {
		return
	}
	log, _ := os.ReadFile(filepath.Join(ctrd.Dir, "log"))
	for _, d := range k.tasks {
		for _, text := range []string{k.logs.String(), string(log)} {
			for line := range strings.Lines(text) {
				if strings.Contains(line, d.GetTaskId()) {
					k.t.Log(strings.TrimSpace(line))
				}
			}
		}
	}
}
