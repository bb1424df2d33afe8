package e2e

import (
	"bytes"
	"fmt"
	"os"
	"strings"
	"time"

	"github.com/redoubt-cluster/redoubt/internal/ident"
)

// memoryCanaries are secrets of every kind that a task on worker-1 has: what no daemon's
// memory may hold.
type memoryCanaries struct {
	s    *secretStory
	on   string            // which manager they are made on
	held map[string][]byte // by what they are
}

// newMemoryCanaries makes them, and a service that has them as a file, as a large one,
// in a template with what only rendering does, and for its registry.
func newMemoryCanaries(c *cluster, on string) *memoryCanaries {
	c.t.Helper()
	m := &memoryCanaries{s: &secretStory{cluster: c}, on: on, held: map[string][]byte{}}
	m.put("create", "token", m.fresh("token"))
	m.put("create", "large", m.large("large"))
	m.put("create", "--registry=registry.test", "hub", m.fresh("password"))
	m.template("create", "--template")
	c.ok(on, "service", "create", "--name", "holder", "--constraint", "node.hostname==worker-1", "--registry-auth", "hub",
		"--secret", "token", "--secret", "large", "--secret", "source=token,target=/etc/token", "--config", "motd", image)
	m.settled()
	return m
}

// fresh is data that nobody has yet, as long as a key.
func (m *memoryCanaries) fresh(what string) []byte {
	data := []byte(("canary-" + ident.New())[:32])
	m.held[fmt.Sprintf("%s %d", what, len(m.held))] = data
	return data
}

// large is data in which a canary lies far from either end.
func (m *memoryCanaries) large(what string) []byte {
	fill := bytes.Repeat([]byte("0123456789abcde\n"), 12<<10)
	return bytes.Join([][]byte{fill, fill}, m.fresh(what))
}

func (m *memoryCanaries) put(args ...any) {
	m.s.t.Helper()
	line := []string{"secret"}
	var data []byte
	for _, a := range args {
		switch a := a.(type) {
		case string:
			line = append(line, a)
		case []byte:
			data = a
		}
	}
	if strings.HasPrefix(line[2], "--registry") {
		line = append(line[:3:3], "--username=ci", line[3])
	}
	if r := m.s.onIn(m.on, data, append(line, "-")...); r.code != 0 {
		m.s.t.Fatal(r)
	}
}

func (m *memoryCanaries) template(args ...string) {
	m.s.t.Helper()
	text := fmt.Sprintf(`{{/* %s */}}{{$t := secret "token"}}{{if ne $t ""}}{{$t}} of {{.Service.Name}}{{end}}{{with secret "large"}}{{.}}{{end}}`, ident.New())
	if r := m.s.onIn(m.on, []byte(text), append(append([]string{"config"}, args...), "motd", "-")...); r.code != 0 {
		m.s.t.Fatal(r)
	}
}

// settled waits until the task has what is current and rund said so.
func (m *memoryCanaries) settled() {
	m.s.t.Helper()
	eventually(m.s.t, time.Minute, func() string {
		for _, what := range []string{"secret grants token", "secret grants large", "config grants motd"} {
			got := m.s.ok(m.on, strings.Fields(what)...)
			_, current, _ := strings.Cut(got, "version ")
			current, _, _ = strings.Cut(current, "\n")
			for line := range strings.Lines(got) {
				if f := strings.Fields(line); len(f) > 1 && f[0] == "holder.1" && f[len(f)-1] == current {
					got = ""
					break
				}
			}
			if got != "" {
				return what + ":\n" + got
			}
		}
		return ""
	})
}

// change gives the task other versions of all, some of them more than once.
func (m *memoryCanaries) change() {
	m.s.t.Helper()
	m.put("update", "large", m.large("large"))
	for range 3 {
		m.put("update", "token", m.fresh("token"))
		m.template("update")
	}
	m.s.ok(m.on, "secret", "rollback", "token")
	m.settled()
}

func (m *memoryCanaries) remove() {
	m.s.t.Helper()
	m.s.ok(m.on, "service", "rm", "holder")
	eventually(m.s.t, time.Minute, func() string {
		if got := m.s.fileSystems("worker-1"); len(got) > 0 {
			return fmt.Sprintf("worker-1 has files of %v", got)
		}
		return ""
	})
}

// nowhere looks into every daemon there is.
func (m *memoryCanaries) nowhere(state string) {
	t := m.s.t
	t.Helper()
	if found, err := inMemory(os.Getpid(), m.held); err != nil || len(found) != len(m.held) {
		t.Fatalf("of %d secrets this process has %v, %v: looking does not find", len(m.held), found, err)
	}
	for _, h := range m.s.hosts() {
		daemons := m.s.daemons(h)
		if daemons["redoubt-rund"] == 0 || daemons["redoubtd"] == 0 || daemons["redoubt-keyd"] == 0 {
			t.Fatalf("%s: %s has %v", state, h.Name, daemons)
		}
		for daemon, pid := range daemons {
			found, err := inMemory(pid, m.held)
			if err != nil || len(found) > 0 {
				t.Errorf("%s: %s of %s has what secrets hold in its memory: %v, %v", state, daemon, h.Name, found, err)
			}
		}
	}
}
