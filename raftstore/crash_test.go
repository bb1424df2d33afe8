package raftstore_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/redoubt-cluster/redoubt/raftstore"
	"github.com/redoubt-cluster/redoubt/raftstore/internal/testpb"
	"github.com/redoubt-cluster/redoubt/raftstore/internal/testseal"
)

// The crash campaign. A process runs a store with real fsyncs; its writers
// acknowledge over a pipe what they wrote. It is killed at a random point, of
// its start too, and started again on what it left. Then each writer must find
// every write that it acknowledged, in order and each once: a write makes an
// object, which can be made only once, and raises a counter. What was under way
// may be there or not.
//
// A kill leaves the kernel's cache, so nothing written is lost: what a loss of
// power does is in powerloss_test.go.
//
//	REDOUBT_CRASH_CYCLES=1000 go test -run TestCrash -timeout 2h ./raftstore   (make crash CYCLES=1000)
const (
	crashDirEnv    = "REDOUBT_CRASH_DIR"
	crashLogEnv    = "REDOUBT_CRASH_LOG"
	crashCyclesEnv = "REDOUBT_CRASH_CYCLES"
	crashCycles    = 12 // of an ordinary run of the tests, for each kind of log
	crashWriters   = 6
	crashSegment   = 64 << 10 // of the log: each life begins several
	crashKept      = 40       // objects of each writer that stay
)

// crashCyclesWanted is how many cycles, or images, a campaign takes.
func crashCyclesWanted(t testing.TB, ordinary int) int {
	s := os.Getenv(crashCyclesEnv)
	if s == "" {
		return ordinary
	}
	n, err := strconv.Atoi(s)
	if err != nil || n < 1 {
		t.Fatalf("%s=%q: a number of cycles is wanted", crashCyclesEnv, s)
	}
	return n
}

func crashConfig(dir string, kind raftstore.LogStore) raftstore.Config {
	c := soloConfig(dir, testseal.WithKey("crash campaign"))
	c.LogStore = kind
	c.SnapshotThreshold, c.SnapshotInterval, c.TrailingLogs = 24, 15*time.Millisecond, 8
	return c.WithSegments(crashSegment)
}

// crashChild is the process that is killed. It prints what it found, "found
// <writer> <number>", then "ready", then "ack <writer> <number>" for each write.
func crashChild(dir string) int {
	s, err := raftstore.Open(context.Background(), crashConfig(dir, raftstore.LogStore(os.Getenv(crashLogEnv))))
	if err != nil {
		fmt.Println("refused:", err)
		return 1
	}
	if len(s.Servers()) == 0 {
		if err := s.Bootstrap(); err != nil {
			fmt.Println("refused:", err)
			return 1
		}
	}
	for !s.IsLeader() {
		changed := s.LeaderChanged()
		if s.IsLeader() {
			break
		}
		select {
		case <-changed:
		case <-s.Done():
			fmt.Println("refused:", s.Err())
			return 1
		}
	}
	var out sync.Mutex
	say := func(format string, args ...any) {
		out.Lock()
		defer out.Unlock()
		if _, err := fmt.Printf(format+"\n", args...); err != nil {
			os.Exit(1)
		}
	}
	next := make([]int64, crashWriters)
	if err := s.View(func(r *raftstore.ReadTx) error {
		for w := range next {
			n, err := crashFound(r, w)
			if err != nil {
				return err
			}
			next[w] = n + 1
			say("found %d %d", w, n)
		}
		return nil
	}); err != nil {
		fmt.Println("refused:", err)
		return 1
	}
	say("ready")
	for w := range next {
		go func() {
			for n := next[w]; ; n++ {
				if err := s.Update(context.Background(), func(tx *raftstore.Tx) error { return crashWrite(tx, w, n) }); err != nil {
					say("refused: writer %d, write %d: %v", w, n, err)
					return
				}
				say("ack %d %d", w, n)
			}
		}()
	}
	select {}
}

func crashWrite(tx *raftstore.Tx, w int, n int64) error {
	counter := &testpb.Thing{Id: fmt.Sprint("counter-", w)}
	if c, ok := things.Get(tx, counter.Id); ok {
		counter = proto.Clone(c).(*testpb.Thing)
	}
	if counter.Number++; counter.Number != n {
		return fmt.Errorf("the counter goes to %d: a write was lost or done twice", counter.Number)
	}
	if n > crashKept {
		if err := things.Delete(tx, fmt.Sprintf("w%d-%d", w, n-crashKept)); err != nil {
			return err
		}
	}
	payload := make([]byte, 10+(n*37)%1500)
	return errors.Join(things.Put(tx, counter), things.Put(tx, &testpb.Thing{Id: fmt.Sprintf("w%d-%d", w, n), Number: n, Payload: payload}))
}

// crashFound returns how many writes of w are there, and what is wrong with them.
func crashFound(r raftstore.Reader, w int) (int64, error) {
	c, ok := things.Get(r, fmt.Sprint("counter-", w))
	if !ok {
		return 0, nil
	}
	version := uint64(0)
	for n := max(1, c.GetNumber()-crashKept+1); n <= c.GetNumber(); n++ {
		o, ok := things.Get(r, fmt.Sprintf("w%d-%d", w, n))
		if !ok {
			return 0, fmt.Errorf("writer %d: the counter says %d and write %d is lost", w, c.GetNumber(), n)
		}
		if o.GetMeta().GetVersion() <= version {
			return 0, fmt.Errorf("writer %d: write %d comes before the one before it", w, n)
		}
		version = o.GetMeta().GetVersion()
	}
	if o, ok := things.Get(r, fmt.Sprintf("w%d-%d", w, c.GetNumber()+1)); ok {
		return 0, fmt.Errorf("writer %d: the counter says %d and there is %s", w, c.GetNumber(), o.GetId())
	}
	return c.GetNumber(), nil
}

func TestCrash(t *testing.T) {
	for name, kinds := range map[string][]raftstore.LogStore{
		"bolt":    {raftstore.LogBolt},
		"wal":     {raftstore.LogWAL},
		"convert": {raftstore.LogBolt, raftstore.LogWAL}, // from one to the other and back
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			cycles := crashCyclesWanted(t, crashCycles)
			c := crashCampaign{dir: t.TempDir(), rand: rand.New(rand.NewPCG(uint64(time.Now().UnixNano()), 1))}
			for i := range cycles {
				c.cycle(t, kinds[i%len(kinds)], false)
				if t.Failed() {
					t.Fatalf("in cycle %d of %d", i+1, cycles)
				}
			}
			c.cycle(t, "", true)
			t.Logf("crash campaign: log=%s cycles=%d killed-before-ready=%d acknowledged=%d lost=0 twice=0 refused=0", name, cycles, c.early, c.total)
			if c.total == 0 {
				t.Error("nothing was ever acknowledged")
			}
		})
	}
}

type crashCampaign struct {
	dir   string
	rand  *rand.Rand
	acked [crashWriters]int64
	total int64
	early int
}

// cycle starts the process, checks what it found and kills it at some point; to
// the end of its start, where last is set.
func (c *crashCampaign) cycle(t *testing.T, kind raftstore.LogStore, last bool) {
	t.Helper()
	cmd := exec.Command(os.Args[0], "-test.run=^$")
	cmd.Env = append(os.Environ(), crashDirEnv+"="+c.dir, crashLogEnv+"="+string(kind))
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	life := time.Duration(c.rand.Int64N(int64(120 * time.Millisecond)))
	fromReady := c.rand.IntN(4) > 0 // else it is counted from the start
	kill := func() { _ = cmd.Process.Kill() }
	stuck := time.AfterFunc(patience, func() {
		t.Errorf("the process neither was ready nor ended within %v", patience)
		kill()
	})
	defer stuck.Stop()
	var timer *time.Timer
	if !last && !fromReady {
		timer = time.AfterFunc(life, kill)
	}
	ready := c.read(t, out, func() {
		stuck.Stop()
		switch {
		case last:
			kill()
		case fromReady:
			timer = time.AfterFunc(life, kill)
		}
	})
	if timer != nil {
		timer.Stop()
	}
	kill() // it refused, and is ending
	if err := cmd.Wait(); err == nil {
		t.Error("the process ended by itself")
	}
	if !ready {
		if c.early++; fromReady || last {
			t.Error("the process ended before it was ready")
		}
	}
}

// read follows what the process says until its end; it reports whether it was ready.
func (c *crashCampaign) read(t *testing.T, out io.Reader, onReady func()) (ready bool) {
	t.Helper()
	lines := bufio.NewScanner(out)
	for lines.Scan() {
		word, rest, _ := strings.Cut(lines.Text(), " ")
		var w int
		var n int64
		if word == "found" || word == "ack" {
			if _, err := fmt.Sscan(rest, &w, &n); err != nil || w >= crashWriters {
				return ready // the line was cut by the kill
			}
		}
		switch word {
		case "found":
			if n < c.acked[w] || n > c.acked[w]+1 {
				t.Errorf("writer %d had %d writes acknowledged and finds %d", w, c.acked[w], n)
			}
			c.acked[w] = n
		case "ack":
			c.acked[w] = n
			c.total++
		case "ready":
			ready = true
			onReady()
		case "refused:":
			t.Error(lines.Text())
		}
	}
	return ready
}
