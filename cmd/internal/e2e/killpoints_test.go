package e2e

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

// killRun is a cluster in which one daemon after the other is killed, each at a
// random moment of an operation. What was acknowledged must be there, what was
// not must be there or not, but never half; a retry must bring it about; and the
// container that runs all along must not notice.
type killRun struct {
	*cluster
	rng      *rand.Rand
	keys     []string // operator keys that may count, newest first
	services map[string]int
	took     map[string]time.Duration // an operation at its quickest
	rotated  bool                     // the last rotation of the operator key ended well
	n        int
}

// operation is one that is disturbed. run does it; it is called again until it
// succeeds. done says what is missing of its effect.
type operation struct {
	name  string
	hosts []string // whose daemons are killed
	ready func(k *killRun)
	run   func(k *killRun) result
	done  func(k *killRun) string
	undo  func(k *killRun)
}

var victims = []string{"redoubtd", "redoubt-keyd", "redoubt-netd", "redoubt-named", "redoubt-rund", "redoubt-node"}

// TestKillPoints: REDOUBT_KILLMATRIX_MINUTES makes it long, _SEED repeats the
// choices of an earlier run.
func TestKillPoints(t *testing.T) {
	t.Parallel()
	budget, long := 18*time.Second, false
	if m, err := strconv.Atoi(os.Getenv("REDOUBT_KILLMATRIX_MINUTES")); err == nil && m > 0 {
		budget, long = time.Duration(m)*time.Minute, true
	}
	seed, err := strconv.ParseUint(os.Getenv("REDOUBT_KILLMATRIX_SEED"), 10, 64)
	if err != nil {
		seed = uint64(time.Now().UnixNano())
	}
	t.Logf("seed %d", seed)
	c := up(t, "killpoints", 3, 2)
	c.load()
	k := &killRun{cluster: c, rng: rand.New(rand.NewPCG(seed, 0)), keys: []string{string(c.key())}, services: map[string]int{}, took: map[string]time.Duration{}}
	c.ok("manager-1", "service", "create", "--name", "held", "--constraint", "node.hostname==worker-1", image)
	held := c.tasks("manager-1", "held")[0].ID
	pid := c.taskPID(held)
	start, points := time.Now(), map[string]int{}
	ops := operations()
	if !long { // a vote and its end take many seconds
		ops = slices.DeleteFunc(ops, func(op operation) bool { return op.name == "promote" })
	}
	for time.Since(start) < budget {
		k.rng.Shuffle(len(ops), func(i, j int) { ops[i], ops[j] = ops[j], ops[i] })
		for _, op := range ops {
			if time.Since(start) > budget {
				break
			}
			what := k.disturb(op)
			points[op.name]++
			if now := c.taskPID(held); now != pid {
				t.Fatalf("%s: the container that ran all along was restarted: pid %d, then %d", what, pid, now)
			}
		}
	}
	total := 0
	for _, name := range slices.Sorted(maps.Keys(points)) {
		t.Logf("%-8s %3d kills, at its quickest it took %v", name, points[name], k.took[name].Round(time.Millisecond))
		total += points[name]
	}
	t.Logf("%d kills in %v: nothing lost, no container restarted", total, time.Since(start).Round(time.Second))
}

// disturb does op, kills a daemon meanwhile, mends what a person would mend and
// sees op's effect and all earlier ones there.
func (k *killRun) disturb(op operation) (what string) {
	t := k.t
	k.n++
	if op.ready != nil {
		op.ready(k)
	}
	usual, known := k.took[op.name]
	if !known {
		usual = 400 * time.Millisecond
	}
	victim, host := victims[k.rng.IntN(len(victims))], op.hosts[k.rng.IntN(len(op.hosts))]
	moment := time.Duration(k.rng.Int64N(int64(usual)))
	what = fmt.Sprintf("#%d %s, %s of %s killed after %v", k.n, op.name, victim, host, moment.Round(time.Millisecond))
	pid := k.daemons(k.host(host))[victim]
	if pid == 0 {
		t.Fatalf("%s: it does not run", what)
	}
	result, begun := make(chan result, 1), time.Now()
	var took time.Duration
	go func() {
		r := op.run(k)
		took = time.Since(begun)
		result <- r
	}()
	alarm := time.NewTimer(moment) // the moment is what is varied
	<-alarm.C
	if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
		t.Fatalf("%s: %v", what, err)
	}
	r := <-result
	if r.code == 0 && (!known || took < usual) { // the next kill shall not come too late
		k.took[op.name] = max(took, 20*time.Millisecond)
	}
	said := strings.Split(strings.TrimSpace(r.stderr), "\n")
	t.Logf("%s: exit %d after %v %s", what, r.code, took.Round(time.Millisecond), said[len(said)-1])
	k.mend(what)
	acked := r.code == 0
	eventually(t, 60*time.Second, func() string {
		if acked {
			return prefix(what+": acknowledged, but ", op.done(k))
		}
		// Nobody said that it was done: it may have been, and a retry must say
		// so or do it.
		if op.done(k) == "" {
			return ""
		}
		if r = op.run(k); r.code == 0 {
			acked = true
		}
		return what + ": retried: " + r.String()
	})
	seen := time.Since(begun)
	if op.undo != nil {
		op.undo(k)
	}
	for name, replicas := range k.services {
		eventually(t, 60*time.Second, func() string { return prefix(what+": ", k.serviceIs(name, replicas)) })
	}
	t.Logf("   its effect seen after %v, all as before after %v", seen.Round(time.Millisecond), time.Since(begun).Round(time.Millisecond))
	return what
}

func prefix(with, text string) string {
	if text == "" {
		return ""
	}
	return with + text
}

// mend starts what a killed supervisor took with it and unlocks managers whose
// keyd forgot its keys; daemons come back by themselves.
func (k *killRun) mend(what string) {
	for _, h := range k.hosts() {
		if !h.Running {
			k.lab("start", h.Name)
		}
		k.open(h.Name, what)
	}
	eventually(k.t, 60*time.Second, func() string {
		r := k.on("manager-1", "node", "ls", "--format", "json")
		if r.code != 0 {
			return what + ": " + r.String()
		}
		var nodes []nodeJSON
		k.decode(r.stdout, &nodes)
		for _, n := range nodes {
			if n.State != "ready" && n.Hostname != "worker-2" {
				return what + ": " + r.String()
			}
		}
		return ""
	})
}

// open unlocks a host that is locked with whichever key counts.
func (k *killRun) open(host, what string) {
	k.t.Helper()
	i := 0
	eventually(k.t, 60*time.Second, func() string {
		switch r := k.on(host, "status"); r.code {
		case 0, 5, 6: // 6: a quorum may need the managers still to be opened
			if len(k.daemons(k.host(host))) == len(victims) && !strings.Contains(r.stdout, "starting") {
				return ""
			}
			return what + ": " + r.String()
		case 4:
			r = k.onIn(host, []byte(k.keys[i%len(k.keys)]), "unlock")
			i++
			return what + ": " + r.String()
		default:
			return what + ": " + r.String()
		}
	})
}

// learn remembers a key that a command has shown, which may count from now on,
// or alone when the command succeeded.
func (k *killRun) learn(r result) result {
	key := keyText.FindString(r.stdout)
	if key == "" {
		return r
	}
	k.keys = append([]string{key + "\n"}, k.keys...)
	if k.rotated = r.code == 0; k.rotated {
		k.keys = k.keys[:1]
		k.keepKey(key)
	}
	return r
}

func (k *killRun) serviceIs(name string, replicas int) string {
	var list []struct {
		Name string `json:"name"`
	}
	r := k.on("manager-1", "service", "ls", "--format", "json")
	if r.code != 0 {
		return r.String()
	}
	k.decode(r.stdout, &list)
	count := 0
	for _, s := range list {
		if s.Name == name {
			count++
		}
	}
	want := 1
	if replicas < 0 {
		want = 0
	}
	if count != want {
		return fmt.Sprintf("%d services are called %s, want %d", count, name, want)
	}
	running := 0
	if want == 1 {
		for _, n := range k.running("manager-1", name) {
			running += n
		}
		if running != replicas {
			return fmt.Sprintf("%s runs %d times, want %d: %s", name, running, replicas, k.on("manager-1", "service", "ps", name))
		}
	}
	return ""
}

func (k *killRun) service(suffix string) string { return fmt.Sprintf("svc-%d%s", k.n, suffix) }

// withService makes the operation's own service first.
func withService(k *killRun) {
	k.ok("manager-1", "service", "create", "--timeout", "60s", "--name", k.service(""), image)
}

func (k *killRun) removeService() { k.ok("manager-1", "service", "rm", k.service("")) }

func on1(args ...string) func(*killRun) result {
	return func(k *killRun) result {
		full := slices.Clone(args)
		for i, a := range full {
			full[i] = strings.ReplaceAll(a, "SERVICE", k.service(""))
		}
		return k.on("manager-1", full...)
	}
}

func operations() []operation {
	managers := []string{"manager-1", "manager-2", "manager-3"}
	all := append([]string{"worker-1", "worker-2"}, managers...)
	want := func(n int) func(*killRun) string {
		return func(k *killRun) string { return k.serviceIs(k.service(""), n) }
	}
	return []operation{
		{"create", all, nil, on1("service", "create", "--timeout", "20s", "--name", "SERVICE", image), want(1), func(k *killRun) {
			k.services[k.service("")] = 1 // stays, to be seen after every later kill
			if len(k.services) > 4 {
				for name := range k.services {
					k.ok("manager-1", "service", "rm", name)
					delete(k.services, name)
					break
				}
			}
		}},
		{"update", all, withService, on1("service", "update", "--timeout", "20s", "--env-add", "KILLED=1", "SERVICE"), func(k *killRun) string {
			if r := k.on("manager-1", "service", "inspect", k.service("")); r.code != 0 || !strings.Contains(r.stdout, "KILLED") {
				return r.String()
			}
			return k.serviceIs(k.service(""), 1)
		}, (*killRun).removeService},
		{"scale", all, withService, on1("service", "scale", "SERVICE=3"), want(3), (*killRun).removeService},
		{"remove", all, withService, on1("service", "rm", "SERVICE"), want(-1), nil},
		{"rotate", managers, func(k *killRun) { k.rotated = false }, func(k *killRun) result { return k.learn(k.on("manager-1", "unlock-key", "rotate")) }, func(k *killRun) string {
			if !k.rotated {
				return "the rotation has not ended well"
			}
			if r := k.on("manager-1", "unlock-key", "slot", "ls"); r.code != 0 || strings.Count(r.stdout, "current") != 3 {
				return r.String()
			}
			return ""
		}, nil},
		{"unlock", managers, func(k *killRun) {
			pid := k.daemons(k.host("manager-2"))["redoubt-keyd"]
			if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
				k.t.Fatal(err)
			}
			eventually(k.t, 30*time.Second, func() string {
				if r := k.on("manager-2", "status"); r.code != 4 || len(k.daemons(k.host("manager-2"))) != len(victims) {
					return r.String()
				}
				return ""
			})
		}, func(k *killRun) result { return k.onIn("manager-2", []byte(k.keys[0]), "unlock") }, func(k *killRun) string {
			if r := k.on("manager-2", "node", "ls"); r.code != 0 {
				return r.String()
			}
			return ""
		}, nil},
		{"backup", managers, nil, func(k *killRun) result {
			return k.on("manager-1", "backup", "create", k.backupFile())
		}, func(k *killRun) string {
			if r := k.on("manager-1", "backup", "verify", k.backupFile()); r.code != 0 {
				os.Remove(k.backupFile()) // as one would before the retry
				return r.String()
			}
			return ""
		}, func(k *killRun) { os.Remove(k.backupFile()) }},
		{"promote", []string{"worker-2", "manager-1", "manager-2"}, nil, on1("node", "promote", "worker-2"), func(k *killRun) string {
			if names, all := k.voters("manager-1"); !slices.Contains(names, "worker-2") {
				return all
			}
			return ""
		}, func(k *killRun) {
			eventually(k.t, 60*time.Second, func() string {
				if r := k.learn(k.on("manager-1", "node", "demote", "worker-2")); r.code != 0 {
					return r.String()
				}
				return ""
			})
			k.workerTwoReady()
		}},
		{"join", []string{"worker-2", "manager-1"}, func(k *killRun) {
			k.ok("worker-2", "leave")
			eventually(k.t, 60*time.Second, func() string {
				if r := k.on("manager-1", "node", "rm", "--force", "worker-2"); r.code != 0 {
					return r.String()
				}
				return ""
			})
		}, func(k *killRun) result {
			token := k.on("manager-1", "join-token", "worker", "-q")
			if token.code != 0 {
				return token
			}
			return k.onIn("worker-2", []byte(strings.TrimSpace(token.stdout)), "join", k.addr2377("manager-1"))
		}, func(k *killRun) string {
			return k.workerTwo()
		}, func(k *killRun) {
			// A join that was cut between certificate and answer leaves a record
			// of a node that never came: it is down, and removed like any.
			for _, n := range k.nodes("manager-1") {
				if n.Hostname == "worker-2" && n.State != "ready" {
					k.on("manager-1", "node", "rm", "--force", n.ID)
				}
			}
			k.workerTwoReady()
		}},
	}
}

func (k *killRun) workerTwoReady() { eventually(k.t, 60*time.Second, k.workerTwo) }

// workerTwo says what worker-2 lacks to be a worker with a session.
func (k *killRun) workerTwo() string {
	if r := k.on("worker-2", "status"); r.code != 0 || !strings.Contains(r.stdout, "active") || strings.Contains(r.stdout, "Session:") {
		return r.String()
	}
	r := k.on("manager-1", "node", "ls", "--format", "json")
	if r.code != 0 {
		return r.String()
	}
	var nodes []nodeJSON
	k.decode(r.stdout, &nodes)
	if !slices.ContainsFunc(nodes, func(n nodeJSON) bool { return n.Hostname == "worker-2" && n.State == "ready" }) {
		return r.String()
	}
	return ""
}

func (k *killRun) backupFile() string {
	return filepath.Join(os.TempDir(), fmt.Sprintf("%s-%d.rdtb", k.name, k.n))
}
