package e2e

import (
	"fmt"
	"runtime"
	"strings"
	"testing"
	"time"
)

// TestPlace: tasks are spread over zones, those of a higher priority take their place,
// tasks move to a node that came while requests are answered, and a number of them that
// nothing can hold is a state to see, change and end.
func TestPlace(t *testing.T) {
	t.Parallel()
	c := up(t, "place", 1, 2)
	c.load()
	s := &placeStory{&rolloutStory{client: c.newClient()}}
	s.ok("manager-1", "node", "update", "--label-add", "zone=a", "worker-1")
	s.ok("manager-1", "node", "update", "--label-add", "zone=b", "worker-2")
	s.ok("manager-1", "node", "update", "--label-add", "zone=b", "--availability", "active", "manager-1")
	for _, story := range []struct {
		name string
		tell func(*placeStory)
	}{
		{"zones first", (*placeStory).zones},
		{"priorities", (*placeStory).priorities},
		{"to a node that came", (*placeStory).moves},
		{"too many", (*placeStory).tooMany},
	} {
		at := time.Now()
		if !t.Run(story.name, func(t *testing.T) { story.tell(&placeStory{&rolloutStory{client: s.client.with(t)}}) }) {
			return
		}
		t.Logf("%s: %v", story.name, time.Since(at).Round(100*time.Millisecond))
	}
}

type placeStory struct{ *rolloutStory }

// on counts a service's tasks that serve, by node.
func (s *placeStory) on(name string) map[string]int {
	s.t.Helper()
	out := map[string]int{}
	for _, x := range s.serving(name) {
		out[x.Node]++
	}
	return out
}

// become waits until a service's tasks serve there.
func (s *placeStory) become(name string, want map[string]int) {
	s.t.Helper()
	eventually(s.t, 30*time.Second, func() string {
		if got := s.on(name); fmt.Sprint(got) != fmt.Sprint(want) {
			return fmt.Sprintf("%s serves on %v, want %v\n%s", name, got, want, s.ok("manager-1", "service", "explain", name))
		}
		return ""
	})
}

func (s *placeStory) zones() {
	s.ok("manager-1", "service", "create", "-d", "--name", "z", "--replicas", "4", "--placement-pref", "spread=node.labels.zone", image)
	s.become("z", map[string]int{"worker-1": 2, "worker-2": 1, "manager-1": 1})
	if out := s.ok("manager-1", "service", "explain", "z"); !strings.Contains(out, "spread over node.labels.zone: a 2, b 2") || strings.Contains(out, "rebalance") {
		s.t.Errorf("explained as\n%s", out)
	}
	s.ok("manager-1", "service", "rm", "z")
}

// priorities: each of low takes all processors of a worker.
func (s *placeStory) priorities() {
	all := fmt.Sprint(runtime.NumCPU())
	since := time.Now()
	s.create("low", 2, "-d", "--reserve-cpu", all)
	s.become("low", map[string]int{"worker-1": 1, "worker-2": 1})
	s.create("high", 1, "-d", "--reserve-cpu", all, "--priority", "100", "--constraint", "node.labels.zone==a")
	s.become("high", map[string]int{"worker-1": 1})
	s.become("low", map[string]int{"worker-2": 1})
	high := s.serving("high")[0].ID
	ended := 0
	for _, x := range s.tasks("manager-1", "low") {
		switch {
		case x.PreemptedBy == high && x.Node == "worker-1":
			ended++
		case x.Node == "" && !strings.Contains(x.Message, "no suitable node"):
			s.t.Errorf("what waits says %q", x.Message)
		}
	}
	if ended != 1 {
		s.t.Errorf("%d tasks ended for %s:\n%s", ended, high, s.ok("manager-1", "service", "ps", "low"))
	}
	if out := s.ok("manager-1", "events", "--since", since.UTC().Format(time.RFC3339), "--until", "0s", "--filter", "action=preempt"); !strings.Contains(out, "low.") || !strings.Contains(out, high) {
		s.t.Errorf("events: %s", out)
	}
	if out := s.ok("manager-1", "audit", "ls", "--last", "4000"); strings.Count(out, "preempt tasks") != 1 {
		s.t.Errorf("the audit log:\n%s", out)
	}
	s.ok("manager-1", "service", "rm", "high")
	s.become("low", map[string]int{"worker-1": 1, "worker-2": 1})
	s.ok("manager-1", "service", "rm", "low")
}

// moves: all is on one worker, and the other comes back.
func (s *placeStory) moves() {
	const port = 8090
	s.ok("manager-1", "node", "update", "--availability", "drain", "worker-2")
	s.create("web", 3, "-d", "--publish", fmt.Sprintf("published=%d,target=80", port))
	s.become("web", map[string]int{"worker-1": 3})
	s.ok("manager-1", "node", "update", "--availability", "active", "worker-2")
	if out := s.ok("manager-1", "service", "explain", "web"); !strings.Contains(out, "one would be on worker-2 and not on worker-1 if it were placed now: ") || !strings.Contains(out, "redoubt service rebalance web") {
		s.t.Errorf("explained as\n%s", out)
	}
	s.everywhereOnce(port)
	l := s.loadOn(port, 100)
	r := s.client.on("manager-1", "service", "rebalance", "web")
	took := l.end()
	if r.code != 0 || !strings.Contains(r.stderr, "web: 1 move: every task is where it would be placed now") {
		s.t.Errorf("rebalance: %v", r)
	}
	s.t.Logf("%d requests in %v while a task moved, %d failed", l.asked.Load(), took.Round(time.Millisecond), l.failed.Load())
	if l.failed.Load() > 0 || l.asked.Load() < 50 {
		s.t.Errorf("%d of %d requests failed: %v", l.failed.Load(), l.asked.Load(), l.first.Load())
	}
	s.become("web", map[string]int{"worker-1": 2, "worker-2": 1})
	if r := s.client.on("manager-1", "service", "rebalance", "web"); r.code != 0 || !strings.Contains(r.stderr, "web: 0 moves") {
		s.t.Errorf("once more: %v", r)
	}
	s.ok("manager-1", "service", "rm", "web")
}

// tooMany: a number that nothing can hold is taken, shown and explained, and taken back
// at once.
func (s *placeStory) tooMany() {
	s.create("many", 1, "-d", "--reserve-memory", "1g")
	eventually(s.t, 30*time.Second, func() string {
		if n := len(s.serving("many")); n != 1 {
			return fmt.Sprintf("%d of many serve", n)
		}
		return ""
	})
	at := time.Now()
	s.ok("manager-1", "service", "scale", "-d", "many=70000")
	if took := time.Since(at); took > 5*time.Second {
		s.t.Errorf("scale took %v", took)
	}
	eventually(s.t, 30*time.Second, func() string {
		if out := s.ok("manager-1", "service", "ls", "--filter", "name=many"); !strings.Contains(out, "/70000 (") || !strings.Contains(out, " held)") {
			return out
		}
		return ""
	})
	if out := s.ok("manager-1", "service", "explain", "many"); !strings.Contains(out, "are held back until there is room: no suitable node") || !strings.Contains(out, "free memory") {
		s.t.Errorf("explained as\n%s", out)
	}
	at = time.Now()
	s.ok("manager-1", "service", "scale", "-d", "many=1")
	eventually(s.t, 30*time.Second, func() string {
		if out := s.ok("manager-1", "service", "ls", "--filter", "name=many"); !strings.Contains(out, " 1/1 ") {
			return out
		}
		return ""
	})
	s.t.Logf("taken back in %v", time.Since(at).Round(100*time.Millisecond))
	s.ok("manager-1", "service", "scale", "-d", "many=70000")
	s.ok("manager-1", "service", "rm", "many")
	eventually(s.t, 30*time.Second, func() string { return s.ok("manager-1", "service", "ps", "-q") })
}
