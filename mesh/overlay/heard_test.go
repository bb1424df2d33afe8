package overlay

import (
	"context"
	"maps"
	"net/netip"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"pgregory.net/rapid"

	"github.com/redoubt-cluster/redoubt/mesh/meshpb"
)

// fataler is a *testing.T or a *rapid.T.
type fataler interface {
	Helper()
	Fatal(args ...any)
}

// A scene is a manager of networks on node "self", with a task of its own and one of
// node "other" on network n.
type scene struct {
	*Manager
	shared map[string][]string
	told   map[string]map[string]bool
	serial byte
}

func newScene(t fataler) *scene {
	t.Helper()
	s := &scene{shared: map[string][]string{}, told: map[string]map[string]bool{}}
	m, err := New(Config{Netd: away{}, Named: away{},
		Share: func(network string, nodes []string) {
			if s.shared[network] = nodes; nodes == nil {
				delete(s.shared, network)
				delete(s.told, network)
			}
		},
		Tell: func(network string, tasks map[string]bool) { s.told[network] = tasks }})
	if err != nil {
		t.Fatal(err)
	}
	s.Manager = m
	return s
}

// view is the managers' word: whether each of these serves. A name that begins with
// o is the other node's.
func (s *scene) view(serving map[string]bool) {
	n := &Network{ID: "n", Kind: meshpb.Kind_KIND_OVERLAY, VNI: 7, Endpoints: map[string]Endpoint{}}
	for task, serves := range serving {
		node := "self"
		if task[0] == 'o' {
			node = "other"
		}
		s.serial++
		n.Endpoints[task] = Endpoint{Service: "s", Node: node, Serving: serves, Addrs: Addrs{netip.AddrFrom4([4]byte{10, 0, 0, s.serial})}}
	}
	mesh := func(i byte) netip.Prefix { return netip.PrefixFrom(netip.AddrFrom4([4]byte{198, 18, 0, i}), 15) }
	s.SetView(&View{Self: Node{ID: "self", Mesh: mesh(1)}, Peers: map[string]Node{"other": {ID: "other", Mesh: mesh(2)}}, Networks: map[string]*Network{"n": n}})
}

func (s *scene) serves(task string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.merged().Networks["n"].Endpoints[task].Serving
}

func (s *scene) want(t testing.TB, when string, want bool) {
	t.Helper()
	if got := s.serves("o1"); got != want {
		t.Errorf("%s: serving is %t", when, got)
	}
}

// Whose word about an endpoint holds.
func TestWhoseWordHolds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newScene(t)
		say := func(serving bool) { s.Heard("other", "n", map[string]bool{"o1": serving}) }
		s.view(map[string]bool{"o1": true})
		s.want(t, "as managers say", true)
		say(false)
		s.want(t, "its node withdrew it", false)
		s.view(map[string]bool{"o1": true})
		s.want(t, "managers say again what they said", false)
		say(true)
		s.want(t, "its node raised it", true)
		time.Sleep(time.Second)
		s.view(map[string]bool{"o1": false})
		s.want(t, "managers withdrew it later", false)
		time.Sleep(time.Second)
		say(true)
		s.want(t, "its node says again what it said", false)
		say(false)
		time.Sleep(time.Second)
		s.view(map[string]bool{"o1": true})
		s.want(t, "managers may have heard something old", false)
		s.view(map[string]bool{"o1": false})
		time.Sleep(raiseAfter)
		s.view(map[string]bool{"o1": true})
		s.want(t, "managers raised it long after", true)
		s.view(map[string]bool{})
		s.view(map[string]bool{"o1": false})
		say(true)
		s.want(t, "it began to serve, and managers do not know yet", true)
		s.view(map[string]bool{"o1": false})
		s.want(t, "managers came back and do not know yet", true)
		s.Heard("other", "n", nil)
		s.want(t, "its node is heard no more", false)
		s.view(map[string]bool{"o1": true})
		// Nobody speaks for others, nor of what managers did not give.
		s.Heard("third", "n", map[string]bool{"o1": false})
		s.Heard("other", "m", map[string]bool{"o1": false})
		s.want(t, "another node's word", true)
		s.Heard("other", "n", map[string]bool{"o2": true, "own": false})
		s.mu.Lock()
		defer s.mu.Unlock()
		if e := s.merged().Networks["n"].Endpoints; len(e) != 1 {
			t.Errorf("endpoints that no manager gave: %v", e)
		}
	})
}

// Whatever is said in whatever order: what managers gave is what there is, and what
// its node says of an endpoint, with nothing of the managers after it, holds.
func TestHeardModel(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		s, tasks := newScene(t), []string{"o1", "o2", "own"}
		managers, said := map[string]bool{}, map[string]bool{}
		s.view(managers)
		for range rapid.IntRange(1, 40).Draw(t, "steps") {
			task := rapid.SampledFrom(tasks).Draw(t, "task")
			serving := rapid.Bool().Draw(t, "serving")
			switch rapid.IntRange(0, 4).Draw(t, "what") {
			case 0:
				managers[task] = serving
				s.view(managers)
				delete(said, task) // its node says nothing new until it speaks again
				s.Heard("other", "n", said)
			case 1:
				delete(managers, task)
				delete(said, task)
				s.view(managers)
			case 2: // a liar
				s.Heard(rapid.SampledFrom([]string{"third", "self", ""}).Draw(t, "node"), "n", map[string]bool{task: serving})
			default:
				if said[task] = serving; task == "own" {
					delete(said, task) // not its own
				}
				words := maps.Clone(said)
				words["o9"] = true // of no interest
				s.Heard("other", "n", words)
			}
			s.mu.Lock()
			got := s.merged().Networks["n"]
			s.mu.Unlock()
			for task, e := range got.Endpoints {
				was, given := managers[task]
				word, spoken := said[task]
				if !given || spoken && e.Serving != word || !spoken && task == "own" && e.Serving != was {
					t.Fatalf("%s: managers %t %t, said %t %t, serving %t", task, given, was, spoken, word, e.Serving)
				}
			}
			if len(got.Endpoints) != len(managers) {
				t.Fatalf("%v, want %v", got.Endpoints, managers)
			}
		}
	})
}

// What a node says of its own: what serves, what managers believe to, and what it
// has spoken of before, for a while after it is gone.
func TestTold(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newScene(t)
		is := func(when string, want map[string]bool) {
			t.Helper()
			if !maps.Equal(s.told["n"], want) {
				t.Errorf("%s: %v, want %v", when, s.told["n"], want)
			}
		}
		task := func(id string, serving bool) Task {
			return Task{ID: id, Serving: serving, Attachments: []Attachment{{Network: "n"}}}
		}
		s.view(map[string]bool{"a": false, "b": true, "o1": true})
		is("nobody said which tasks there are", nil)
		if want := []string{"other", "self"}; !slices.Equal(s.shared["n"], want) {
			t.Errorf("it is shared with %v", s.shared["n"])
		}
		s.SetTasks([]Task{task("a", false)})
		is("one is there and does not serve yet, the other is gone", map[string]bool{"b": false})
		s.SetTasks([]Task{task("a", true)})
		is("it serves", map[string]bool{"a": true, "b": false})
		s.SetTasks([]Task{task("a", false)})
		is("it fails", map[string]bool{"a": false, "b": false})
		s.SetTasks(nil)
		s.view(map[string]bool{"o1": true})
		is("both are gone, and others may not know", map[string]bool{"a": false, "b": false})
		time.Sleep(spokenFor + time.Second)
		s.SetTasks([]Task{task("c", true)})
		is("a while later", map[string]bool{"c": true})
		s.SetView(&View{Self: Node{ID: "self"}, Networks: map[string]*Network{}})
		is("it left the network", nil)
		if len(s.shared) != 0 {
			t.Errorf("it shares %v", s.shared)
		}
	})
}

// A word reaches netd's and named's plans at once.
func TestHeardIsDeclared(t *testing.T) {
	s := newScene(t)
	s.view(map[string]bool{"o1": true})
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- s.runHeard(ctx) }()
	s.mu.Lock()
	for range len(s.netdKick) {
		<-s.netdKick
	}
	s.mu.Unlock()
	s.Heard("other", "n", map[string]bool{"o1": false})
	<-s.netdKick
	s.mu.Lock()
	if s.Manager.view.Networks["n"].Endpoints["o1"].Serving || !s.said.Networks["n"].Endpoints["o1"].Serving {
		t.Error("it is not in what is declared, or changed what managers said")
	}
	s.mu.Unlock()
	cancel()
	<-done
}
