package e2e

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// A place is a task's sandbox, from which this process asks names and pages itself:
// a command each time would take longer than what is measured.
type place struct {
	node string
	ns   *os.File
}

func (c *cluster) place(task taskJSON) *place {
	c.t.Helper()
	f, err := os.Open(filepath.Join("/proc", c.process(task), "ns", "net"))
	if err != nil {
		c.t.Fatal(err)
	}
	c.t.Cleanup(func() { f.Close() })
	return &place{task.Node, f}
}

// process is one of a task's container.
func (c *cluster) process(task taskJSON) string {
	c.t.Helper()
	h := c.host(task.Node) // whose files of namespaces are seen there alone
	inode := strings.TrimSpace(c.inHost(h.Name, "stat", "-L", "-c", "%i", filepath.Join(h.RunDir, "netns", task.ID)))
	procs, err := filepath.Glob("/proc/[0-9]*")
	if err != nil {
		c.t.Fatal(err)
	}
	for _, p := range procs {
		if link, err := os.Readlink(filepath.Join(p, "ns", "net")); err == nil && link == "net:["+inode+"]" {
			if exe, err := os.Readlink(filepath.Join(p, "exe")); err == nil && exe == "/demoapp" {
				return filepath.Base(p)
			}
		}
	}
	c.t.Fatalf("task %s has no process", task.Name)
	return ""
}

// dial connects out of the sandbox.
func (p *place) dial(ctx context.Context, network, address string) (conn net.Conn, err error) {
	done := make(chan struct{})
	go func() {
		defer close(done)
		runtime.LockOSThread() // the thread ends here
		if err = unix.Setns(int(p.ns.Fd()), unix.CLONE_NEWNET); err == nil {
			conn, err = new(net.Dialer).DialContext(ctx, network, address)
		}
	}()
	<-done
	return conn, err
}

// names asks the sandbox's resolver.
func (p *place) names(name string) ([]string, error) {
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	r := &net.Resolver{PreferGo: true, Dial: func(ctx context.Context, network, _ string) (net.Conn, error) {
		return p.dial(ctx, network, "127.0.0.11:53")
	}}
	addrs, err := r.LookupNetIP(ctx, "ip4", name+".")
	var out []string
	for _, a := range addrs {
		out = append(out, a.Unmap().String())
	}
	slices.Sort(out)
	return out, err
}

// get asks for a page on a connection of its own, by a name.
func (p *place) get(name string) (string, error) {
	addrs, err := p.names(name)
	if err != nil {
		return "", err
	}
	return p.page(addrs[0])
}

// page asks an address.
func (p *place) page(address string) (string, error) {
	client := &http.Client{Timeout: 10 * time.Second, Transport: &http.Transport{DisableKeepAlives: true, DialContext: p.dial}}
	resp, err := client.Get("http://" + address + "/")
	if err != nil {
		return "", err
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err == nil && resp.StatusCode != http.StatusOK {
		err = fmt.Errorf("status %d", resp.StatusCode)
	}
	return string(b), err
}

// traffic asks a service by its name from some places at once, one request after
// another, until stop.
type traffic struct {
	t    *testing.T
	end  context.CancelFunc
	done sync.WaitGroup

	mu       sync.Mutex // guards the following
	asked    int
	failures []string
	last     map[string]time.Time // of each task and node: when the last request began that it answered
}

func (c *cluster) traffic(service string, pause time.Duration, places ...*place) *traffic {
	ctx, cancel := context.WithCancel(context.Background())
	f := &traffic{t: c.t, end: cancel, last: map[string]time.Time{}}
	for _, p := range places {
		f.done.Go(func() {
			tick := time.NewTicker(pause)
			defer tick.Stop()
			for ctx.Err() == nil {
				began := time.Now()
				body, err := p.get(service)
				f.note(p.node, began, body, err)
				<-tick.C
			}
		})
	}
	c.t.Cleanup(func() { cancel(); f.done.Wait() })
	return f
}

func (f *traffic) note(node string, began time.Time, body string, err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.asked++
	if err != nil {
		f.failures = append(f.failures, fmt.Sprintf("%s at %s: %v", node, began.Format("15:04:05.000"), err))
		return
	}
	if w := strings.Fields(body); len(w) > 2 { // hello from TASK at …
		f.last[node+" "+w[2]] = began
	}
}

// stop ends it and fails the test where a request failed.
func (f *traffic) stop() int {
	f.t.Helper()
	f.end()
	f.done.Wait()
	for i, failure := range f.failures {
		if i < 10 {
			f.t.Error(failure)
		}
	}
	if len(f.failures) > 0 {
		f.t.Errorf("%d of %d requests failed", len(f.failures), f.asked)
	}
	return f.asked
}

// answered is when the last request began that the task answered to somebody of the node.
func (f *traffic) answered(node string, task taskJSON) time.Time {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.last[node+" "+task.ID[:12]]
}

// keeps holds a connection open that was used once: a server waits for the first
// request of one not for ever. ask fails the test where it did not live.
func (c *cluster) keeps(from *place, to string) (ask func(when string) time.Duration) {
	t := c.t
	t.Helper()
	var conn net.Conn
	eventually(t, 30*time.Second, func() string {
		ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
		defer cancel()
		var err error
		if conn, err = from.dial(ctx, "tcp", net.JoinHostPort(to, "80")); err != nil {
			return err.Error()
		}
		return ""
	})
	t.Cleanup(func() { conn.Close() })
	answers := bufio.NewReader(conn)
	ask = func(when string) time.Duration {
		t.Helper()
		begun := time.Now()
		conn.SetDeadline(begun.Add(2 * time.Minute)) // a kernel asks again after 0.2, 0.4 … 51 s
		if _, err := fmt.Fprintf(conn, "GET / HTTP/1.1\r\nHost: x\r\n\r\n"); err != nil {
			t.Fatalf("%s: %v", when, err)
		}
		r, err := http.ReadResponse(answers, nil)
		if err != nil {
			t.Fatalf("%s: the connection did not live: %v", when, err)
		}
		r.Body.Close()
		return time.Since(begun)
	}
	ask("at first")
	return ask
}
