package e2e

import (
	"fmt"
	"math/rand/v2"
	"os"
	"regexp"
	"slices"
	"strconv"
	"syscall"
	"testing"
	"time"
)

// TestRuntimeKills kills containerd at random moments of the start and of the
// end of several tasks. What an interrupted containerd leaves depends on the
// millisecond; whatever it is, the tasks run in the end, once each, and are
// gone without a trace when they are not wanted.
//
// REDOUBT_RUNTIME_KILLS makes it long, REDOUBT_RUNTIME_KILLS_SEED repeats the
// moments of an earlier run, REDOUBT_RUNTIME_KILLS_OF=redoubt-rund kills rund,
// and =hang stops containerd for a while instead of killing it.
func TestRuntimeKills(t *testing.T) {
	t.Parallel()
	kills := 2
	if n, err := strconv.Atoi(os.Getenv("REDOUBT_RUNTIME_KILLS")); err == nil && n > 0 {
		kills = n
	}
	seed, err := strconv.ParseUint(os.Getenv("REDOUBT_RUNTIME_KILLS_SEED"), 10, 64)
	if err != nil {
		seed = uint64(time.Now().UnixNano())
	}
	t.Logf("seed %d", seed)
	k := &runtimeKills{cluster: up(t, "runtime", 1, 1), rng: rand.New(rand.NewPCG(seed, 0)), victim: os.Getenv("REDOUBT_RUNTIME_KILLS_OF")}
	k.load()
	k.ok("manager-1", "service", "create", "--name", "old", image)
	old := k.tasks("manager-1", "old")[0].ID
	pid := k.taskPID(old)
	for len(k.took) < kills {
		before := k.residue()
		k.disturb("start", k.createKilled, func() string {
			if missing := k.killedRuns(); missing != "" {
				return missing
			}
			return k.noneTwice(before)
		})
		k.disturb("end", k.removeKilled, func() string { return k.residueIs(before) })
		if now := k.taskPID(old); now != pid {
			t.Fatalf("a container that ran all along was restarted: pid %d, then %d", pid, now)
		}
	}
	slices.Sort(k.took)
	t.Logf("%d times: whole after %v in the median, %v at most", len(k.took), k.took[len(k.took)/2], k.took[len(k.took)-1])
}

var runtimeSilent = regexp.MustCompile(`worker-1.*containerd`)

type runtimeKills struct {
	*cluster
	rng    *rand.Rand
	victim string
	took   []time.Duration
}

// disturb does something and meanwhile hits the victim, at a moment of the first
// one and a half seconds, then waits for whole to say nothing.
func (k *runtimeKills) disturb(what string, do func(), whole func() string) {
	t := k.t
	moment := time.Duration(k.rng.Int64N(int64(1500 * time.Millisecond)))
	h := k.host("worker-1")
	victim := k.containerdPID(h)
	signal := syscall.SIGKILL
	switch k.victim {
	case "redoubt-rund":
		eventually(t, 30*time.Second, func() string { // it may have been hit a moment ago
			if victim = k.daemons(h)[k.victim]; victim < 2 {
				return k.victim + " does not run"
			}
			return ""
		})
	case "hang":
		signal = syscall.SIGSTOP
	}
	hit := make(chan error, 1)
	timer := time.AfterFunc(moment, func() { hit <- syscall.Kill(victim, signal) }) // the moment is what is varied
	defer timer.Stop()
	do()
	if err := <-hit; err != nil {
		t.Fatal(err)
	}
	switch k.victim {
	case "redoubt-rund": // its supervisor starts it
	case "hang":
		k.hang(victim)
	default:
		k.containerdBack(h, victim)
	}
	begun := time.Now()
	eventually(t, 60*time.Second, func() string {
		return prefix(fmt.Sprintf("#%d, %s, hit after %v: ", len(k.took)+1, what, moment.Round(time.Millisecond)), whole())
	})
	k.took = append(k.took, time.Since(begun).Round(10*time.Millisecond))
	t.Logf("#%-3d %-5s hit after %6v, whole %v after it was back", len(k.took), what, moment.Round(time.Millisecond), k.took[len(k.took)-1])
}

// hang leaves containerd stopped until the cluster says whose does not answer.
func (k *runtimeKills) hang(pid int) {
	defer syscall.Kill(pid, syscall.SIGCONT)
	eventually(k.t, 60*time.Second, func() string {
		r := k.on("manager-1", "status")
		if !runtimeSilent.MatchString(r.stdout) {
			return "the cluster does not say that worker-1's containerd is silent: " + r.String()
		}
		return ""
	})
	<-time.After(time.Duration(k.rng.Int64N(int64(20 * time.Second)))) // how long is what is varied
}
