package e2e

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

// What a failed story shows is bounded, and the most telling comes last: of a
// long output it is the end that people still see.
const (
	dumpLines = 12  // of each log
	dumpWidth = 400 // of each line, in bytes
	dumpTasks = 6
	dumpOf    = 6 // lines about each task
)

// dump shows the ends of the hosts' logs, and then all that is known of the
// tasks that are not as they should be.
func (c *cluster) dump() {
	logs, _ := filepath.Glob(filepath.Join("/var/lib/redoubt-lab", c.name, "*", "*.log"))
	for _, path := range logs {
		b, _ := os.ReadFile(path)
		lines := strings.Split(strings.TrimSpace(string(b)), "\n")
		lines = slices.DeleteFunc(lines, func(s string) bool { return strings.Contains(s, `"level":"INFO"`) || strings.Contains(s, "level=info") })
		lines = lines[max(0, len(lines)-dumpLines):]
		for i, l := range lines {
			lines[i] = cut(l)
		}
		c.t.Logf("== %s\n%s", filepath.Base(filepath.Dir(path))+"/"+filepath.Base(path), strings.Join(lines, "\n"))
	}
	held := map[string]string{}
	for _, w := range c.workers() {
		for _, kind := range []string{"containers", "tasks", "snapshots"} {
			held[w+" "+kind] = c.try(w, "ctr", "-n", "redoubt", kind, "ls")
		}
	}
	shown := 0
	for _, id := range c.oddTasks() {
		if shown++; shown <= dumpTasks {
			c.t.Logf("== task %s\n%s", id, strings.Join(aboutTask(id, held, logs), "\n"))
		}
	}
	if shown > dumpTasks {
		c.t.Logf("== and %d tasks more", shown-dumpTasks)
	}
}

func cut(line string) string {
	if len(line) > dumpWidth {
		return strings.ToValidUTF8(line[:dumpWidth], "") + "…"
	}
	return line
}

// try runs a command of the lab for a moment; it may fail, as what it asks may
// be what is broken.
func (c *cluster) try(host string, args ...string) string {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	out, err := exec.CommandContext(ctx, filepath.Join(binDir, "redoubt"), append([]string{"lab", "exec", "--name", c.name, host, "--"}, args...)...).Output()
	if err != nil {
		c.t.Logf("%s: %s: %v", host, strings.Join(args, " "), err)
	}
	return string(out)
}

func (c *cluster) workers() (names []string) {
	dirs, _ := filepath.Glob(filepath.Join("/var/lib/redoubt-lab", c.name, "worker-*"))
	for _, d := range dirs {
		names = append(names, filepath.Base(d))
	}
	return names
}

// oddTasks are those that a manager wants to run and that do not, then those that
// ended otherwise than they were asked to, and those that a worker has and no manager
// wants.
func (c *cluster) oddTasks() (ids []string) {
	var services []struct {
		Name string `json:"name"`
	}
	if json.Unmarshal([]byte(c.try("manager-1", "redoubt", "service", "ls", "--format", "json")), &services) != nil {
		return nil
	}
	known := map[string]bool{}
	var ended []string
	for _, s := range services {
		var tasks []taskJSON
		text := c.try("manager-1", "redoubt", "service", "ps", "--format", "json", s.Name)
		if json.Unmarshal([]byte(text), &tasks) != nil {
			continue
		}
		for _, task := range tasks {
			if known[task.ID] = true; task.State == "running" {
				continue
			}
			switch task.Desired {
			case "running":
				ids = append(ids, task.ID)
			case task.State:
			default:
				ended = append(ended, task.ID)
			}
			c.t.Logf("== task %s of %s is %s, should be %s: %s%s", task.ID, s.Name, task.State, task.Desired, task.Message, task.Error)
		}
	}
	for _, w := range c.workers() {
		for _, f := range strings.Fields(c.try(w, "ctr", "-n", "redoubt", "containers", "ls", "-q")) {
			if id, _, _ := strings.Cut(f, "."); !known[id] {
				ended = append(ended, id)
			}
		}
	}
	return append(ids, ended...)
}

// aboutTask is what containerd has of a task, which processes name it, and what
// the logs say of it last.
func aboutTask(id string, held map[string]string, logs []string) (lines []string) {
	about := func(source, text string) {
		var found []string
		for l := range strings.Lines(text) {
			if strings.Contains(l, id) {
				found = append(found, cut(source+": "+strings.TrimSpace(l)))
			}
		}
		lines = append(lines, found[max(0, len(found)-dumpOf):]...)
	}
	for _, what := range slices.Sorted(maps.Keys(held)) {
		about(what, held[what])
	}
	procs, _ := filepath.Glob("/proc/[0-9]*")
	for _, p := range procs {
		b, _ := os.ReadFile(filepath.Join(p, "cmdline"))
		groups, _ := os.ReadFile(filepath.Join(p, "cgroup"))
		if strings.Contains(string(b), id) || strings.Contains(string(groups), id) {
			lines = append(lines, cut(fmt.Sprintf("process %s: %s", filepath.Base(p), strings.ReplaceAll(string(b), "\x00", " "))))
		}
	}
	for _, path := range logs {
		b, _ := os.ReadFile(path)
		about(filepath.Base(filepath.Dir(path)), string(b))
	}
	return lines
}
