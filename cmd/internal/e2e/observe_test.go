package e2e

import (
	"bytes"
	"fmt"
	"io/fs"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"
)

type taskJSON struct {
	ID      string `json:"id"`
	Name    string `json:"name"`
	Node    string `json:"node"`
	Desired string `json:"desired"`
	State   string `json:"state"`
	Message string `json:"message"`
	Error   string `json:"error"`
	Image   string `json:"image"`
	// Revision of the service that it is of.
	Revision uint64 `json:"revision"`
	// Id of the task of a higher priority for which it ended.
	PreemptedBy string `json:"preempted_by"`
}

type nodeJSON struct {
	ID           string `json:"id"`
	Hostname     string `json:"hostname"`
	State        string `json:"state"`
	Availability string `json:"availability"`
	Leader       bool   `json:"leader"`
}

func (c *cluster) tasks(from, service string) (out []taskJSON) {
	c.t.Helper()
	c.decode(c.ok(from, "service", "ps", service, "--format", "json"), &out)
	return out
}

func (c *cluster) nodes(from string) (out []nodeJSON) {
	c.t.Helper()
	c.decode(c.ok(from, "node", "ls", "--format", "json"), &out)
	return out
}

func (c *cluster) leader(from string) string {
	c.t.Helper()
	var name string
	eventually(c.t, time.Minute, func() string {
		r := c.on(from, "node", "ls", "--format", "json")
		if r.code != 0 {
			return r.String()
		}
		var nodes []nodeJSON
		c.decode(r.stdout, &nodes)
		for _, n := range nodes {
			if n.Leader {
				name = n.Hostname
				return ""
			}
		}
		return "there is no leader"
	})
	return name
}

// running counts the service's running tasks by node.
func (c *cluster) running(from, service string) map[string]int {
	c.t.Helper()
	out := map[string]int{}
	for _, t := range c.tasks(from, service) {
		if t.State == "running" && t.Desired == "running" {
			out[t.Node]++
		}
	}
	return out
}

// daemons are the pids of a host's daemons by name.
func (c *cluster) daemons(h host) map[string]int {
	c.t.Helper()
	out := map[string]int{}
	procs, err := filepath.Glob("/proc/[0-9]*/cmdline")
	if err != nil {
		c.t.Fatal(err)
	}
	for _, p := range procs {
		b, err := os.ReadFile(p)
		if err != nil {
			continue // it ended
		}
		args := strings.Split(strings.TrimRight(string(b), "\x00"), "\x00")
		i := 0
		for i < len(args) && args[i] != "--run-dir" {
			i++
		}
		if i+1 >= len(args) || args[i+1] != h.RunDir || args[1] == "launch" {
			continue
		}
		pid, _ := strconv.Atoi(filepath.Base(filepath.Dir(p)))
		out[filepath.Base(args[0])] = pid
	}
	return out
}

// proc returns the fields of /proc/<pid>/status.
func (c *cluster) proc(pid int) map[string]string {
	c.t.Helper()
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		c.t.Fatal(err)
	}
	out := map[string]string{}
	for line := range strings.Lines(string(b)) {
		k, v, _ := strings.Cut(line, ":")
		out[k] = strings.Join(strings.Fields(v), " ")
	}
	return out
}

// filesWith returns the files below dirs that contain any of the needles.
func (c *cluster) filesWith(needles [][]byte, dirs ...string) (found []string) {
	c.t.Helper()
	scanned := 0
	for _, dir := range dirs {
		err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
			if err != nil {
				if os.IsNotExist(err) {
					return nil
				}
				return err
			}
			if !d.Type().IsRegular() {
				return nil
			}
			b, err := os.ReadFile(path)
			if err != nil {
				if os.IsNotExist(err) {
					return nil
				}
				return err
			}
			scanned++
			for _, n := range needles {
				if bytes.Contains(b, n) {
					found = append(found, path)
				}
			}
			return nil
		})
		if err != nil {
			c.t.Fatal(err)
		}
	}
	if scanned == 0 {
		c.t.Fatalf("nothing to scan in %v", dirs)
	}
	return found
}

// get fetches a URL from outside the hosts.
func get(url string) (int, error) {
	client := http.Client{Timeout: 3 * time.Second, Transport: &http.Transport{DisableKeepAlives: true}}
	resp, err := client.Get(url)
	if err != nil {
		return 0, err
	}
	defer resp.Body.Close()
	return resp.StatusCode, nil
}
