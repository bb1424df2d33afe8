package e2e

import (
	"context"
	"fmt"
	"net/http"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// TestRollout: what becomes of an update that fails, by each failure action, and that one
// which does not loses no request, in either order.
func TestRollout(t *testing.T) {
	t.Parallel()
	c := up(t, "rollout", 1, 2)
	c.load()
	c.lab("load", checkedImage(t, "redoubt.test/sick:1", "/nothing"))
	s := &rolloutStory{client: c.newClient()}
	for _, story := range []struct {
		name string
		tell func(*rolloutStory)
	}{
		{"paused, and resumed, and back", (*rolloutStory).paused},
		{"rolled back by itself", (*rolloutStory).rolledBack},
		{"continued", (*rolloutStory).continued},
		{"no request is lost", (*rolloutStory).nothingLost},
		{"a node dies in the middle", (*rolloutStory).nodeDies},
	} {
		at := time.Now()
		if !t.Run(story.name, func(t *testing.T) { story.tell(&rolloutStory{client: s.client.with(t)}) }) {
			return
		}
		t.Logf("%s: %v", story.name, time.Since(at).Round(100*time.Millisecond))
	}
}

const sick = "redoubt.test/sick:1"

type rolloutStory struct{ *client }

// create makes a service of that many tasks on the workers.
func (s *rolloutStory) create(name string, replicas int, more ...string) {
	s.t.Helper()
	s.ok("manager-1", slices.Concat([]string{"service", "create", "--name", name, "--replicas", strconv.Itoa(replicas), "--restart-delay", "1s", "--stop-grace-period", "3s",
		"--constraint", "node.role==worker", "--update-monitor", "2s", "--rollback-monitor", "2s"}, more, []string{image})...)
}

// is fails unless the service's update is in that state, and that many tasks run, all of
// that image.
func (s *rolloutStory) is(name, state string, running int, of string) {
	s.t.Helper()
	if got := strings.TrimSpace(s.ok("manager-1", "service", "ls", "--filter", "name="+name, "--format", "{{.Update}}")); got != state {
		s.t.Errorf("%s is %q, want %q", name, got, state)
	}
	tasks := s.serving(name)
	for _, x := range tasks {
		if of != "" && x.Image != of {
			s.t.Errorf("%s runs %s", x.Name, x.Image)
		}
	}
	if len(tasks) != running {
		s.t.Errorf("%d tasks of %s serve, want %d", len(tasks), name, running)
	}
}

func (s *rolloutStory) paused() {
	s.create("p", 3)
	s.refused("manager-1", 3, "update paused due to failure or early termination of task", nil, "service", "update", "-q", "--image", sick, "p")
	s.is("p", "paused", 2, image)
	// Once more, and it fails once more.
	s.refused("manager-1", 3, "update paused due to failure", nil, "service", "update", "-q", "p")
	s.is("p", "paused", 2, image)
	history := s.ok("manager-1", "service", "history", "p")
	if lines := strings.Split(strings.TrimSpace(history), "\n"); len(lines) != 3 || !strings.Contains(lines[1], "in force") || !strings.Contains(lines[1], sick) || !strings.Contains(lines[2], "back") {
		s.t.Errorf("history:\n%s", history)
	}
	s.ok("manager-1", "service", "rollback", "p")
	s.is("p", "rollback_completed", 3, image)
	s.refused("manager-1", 1, "there is nothing to go back to", nil, "service", "rollback", "p")
	s.ok("manager-1", "service", "rm", "p")
}

func (s *rolloutStory) rolledBack() {
	since := time.Now()
	for _, order := range []string{"stop-first", "start-first"} {
		name := "r-" + order
		s.create(name, 3, "--update-failure-action", "rollback", "--update-order", order, "--rollback-order", order)
		before := s.serving(name)
		s.refused("manager-1", 3, "rollback completed (update rolled back due to failure or early termination of task", nil, "service", "update", "-q", "--image", sick, name)
		s.is(name, "rollback_completed", 3, image)
		same := 0
		for _, x := range s.serving(name) {
			if slices.ContainsFunc(before, func(y taskJSON) bool { return x.ID == y.ID }) {
				same++
			}
		}
		if want := map[string]int{"stop-first": 2, "start-first": 3}[order]; same != want {
			s.t.Errorf("%s: %d of the tasks are those of before, want %d", order, same, want)
		}
		s.ok("manager-1", "service", "rm", name)
	}
	events := s.ok("manager-1", "events", "--since", since.UTC().Format(time.RFC3339), "--until", "0s", "--filter", "type=service", "--format", "{{.Action}}")
	if got := strings.Join(strings.Fields(events), " "); !strings.Contains(got, "create update rollback rollback-complete remove") {
		s.t.Errorf("events: %s", got)
	}
}

func (s *rolloutStory) continued() {
	s.create("k", 2, "--update-failure-action", "continue")
	s.ok("manager-1", "service", "update", "-d", "--image", sick, "k")
	eventually(s.t, time.Minute, func() string {
		if st := s.ok("manager-1", "service", "inspect", "k"); !strings.Contains(st, "update completed, although 2 of 2 tasks failed") {
			return st
		}
		return ""
	})
	s.ok("manager-1", "service", "update", "--rollback", "k")
	s.is("k", "rollback_completed", 2, image)
	s.ok("manager-1", "service", "rm", "k")
}

// nothingLost asks all the time, every node in turn, while all tasks are replaced. The
// rate is REDOUBT_ROLLOUT_RATE requests a second, each a connection of its own.
func (s *rolloutStory) nothingLost() {
	rate := 200
	if n, err := strconv.Atoi(os.Getenv("REDOUBT_ROLLOUT_RATE")); err == nil && n > 0 {
		rate = n
	}
	for _, order := range []string{"stop-first", "start-first"} {
		name, port := "n-"+order, 8090
		s.create(name, 10, "--publish", fmt.Sprintf("published=%d,target=80", port), "--update-parallelism", "2", "--update-order", order,
			"--reserve-memory", "1m")
		before := s.serving(name)
		s.everywhereOnce(port)
		l := s.loadOn(port, rate)
		s.ok("manager-1", "service", "update", "-q", "--force", name)
		took := l.end()
		s.t.Logf("%s: %d requests in %v, %.0f a second, %d failed, %d took longer than half a second, slowest %v", order, l.asked.Load(), took.Round(time.Millisecond),
			float64(l.asked.Load())/took.Seconds(), l.failed.Load(), l.slow.Load(), time.Duration(l.slowest.Load()).Round(time.Millisecond))
		if l.failed.Load() > 0 || l.asked.Load() < int64(rate) {
			s.t.Errorf("%s: %d of %d requests failed: %v", order, l.failed.Load(), l.asked.Load(), l.first.Load())
		}
		s.is(name, "completed", 10, image)
		for _, x := range s.serving(name) {
			if slices.ContainsFunc(before, func(y taskJSON) bool { return x.ID == y.ID }) {
				s.t.Errorf("%s was not replaced", x.Name)
			}
		}
		s.ok("manager-1", "service", "rm", name)
		eventually(s.t, 30*time.Second, func() string {
			if left := s.ok("manager-1", "service", "ps", "-q"); left != "" {
				return "tasks are left: " + left
			}
			return ""
		})
	}
}

// everywhereOnce waits until every node answers.
func (s *rolloutStory) everywhereOnce(port int) {
	s.t.Helper()
	eventually(s.t, 20*time.Second, func() string {
		for _, h := range s.hosts() {
			if _, err := askTCP(s.at(h, false, port)); err != nil {
				return fmt.Sprintf("%s: %v", h.Name, err)
			}
		}
		return ""
	})
}

// nodeDies: a worker goes in the middle of an update, and comes back after it.
func (s *rolloutStory) nodeDies() {
	s.create("d", 4, "--update-delay", "1s", "--update-failure-action", "rollback")
	s.ok("manager-1", "service", "update", "-d", "--force", "d")
	eventually(s.t, time.Minute, func() string {
		for _, x := range s.serving("d") {
			if x.Revision == 2 {
				return ""
			}
		}
		return "nothing is updated yet"
	})
	s.lab("stop", "worker-2")
	eventually(s.t, 2*time.Minute, func() string {
		tasks := s.serving("d")
		if len(tasks) != 4 || slices.ContainsFunc(tasks, func(x taskJSON) bool { return x.Revision != 2 || x.Node != "worker-1" }) {
			return fmt.Sprintf("%v", tasks)
		}
		return ""
	})
	eventually(s.t, 20*time.Second, func() string {
		if got := strings.TrimSpace(s.ok("manager-1", "service", "ls", "--filter", "name=d", "--format", "{{.Update}}")); got != "completed" {
			return "it is " + got
		}
		return ""
	})
	s.lab("start", "worker-2")
}

// load asks at a steady rate until it is ended.
type load struct {
	asked, failed, slow, slowest atomic.Int64
	first                        atomic.Value // the first error
	begun                        time.Time
	stop                         context.CancelFunc
	askers                       sync.WaitGroup
}

// loadOn asks every host in turn, each time over a new connection.
func (s *rolloutStory) loadOn(port, rate int) *load {
	var urls []string
	for _, h := range s.hosts() {
		urls = append(urls, "http://"+s.at(h, false, port)+"/")
	}
	ctx, cancel := context.WithCancel(s.t.Context())
	l := &load{begun: time.Now(), stop: cancel}
	due := make(chan int)
	for range max(64, rate/8) { // some wait for a packet to be sent again

		l.askers.Go(func() {
			client := &http.Client{Timeout: 10 * time.Second, Transport: &http.Transport{DisableKeepAlives: true}}
			for n := range due {
				l.ask(client, urls[n%len(urls)])
			}
		})
	}
	l.askers.Go(func() {
		defer close(due)
		tick := time.NewTicker(5 * time.Millisecond)
		defer tick.Stop()
		for n := 0; ; {
			select {
			case <-ctx.Done():
				return
			case <-tick.C:
			}
			for until := int(time.Since(l.begun).Seconds() * float64(rate)); n < until; n++ {
				select {
				case due <- n:
				case <-ctx.Done():
					return
				}
			}
		}
	})
	return l
}

func (l *load) ask(client *http.Client, url string) {
	at := time.Now()
	resp, err := client.Get(url)
	l.asked.Add(1)
	if err == nil {
		resp.Body.Close()
		if resp.StatusCode != http.StatusOK {
			err = fmt.Errorf("%s: %s", url, resp.Status)
		}
	}
	if err != nil {
		l.failed.Add(1)
		l.first.CompareAndSwap(nil, err.Error())
	}
	if time.Since(at) > time.Second/2 {
		l.slow.Add(1)
	}
	for took := int64(time.Since(at)); ; {
		if was := l.slowest.Load(); took <= was || l.slowest.CompareAndSwap(was, took) {
			return
		}
	}
}

// end returns how long it asked.
func (l *load) end() time.Duration {
	l.stop()
	l.askers.Wait()
	return time.Since(l.begun)
}
