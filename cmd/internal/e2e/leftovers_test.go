package e2e

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// traces are everything on this machine that could be left of the lab called
// name, with that number; other labs may run beside it.
func traces(t *testing.T, name string, number int) map[string][]string {
	t.Helper()
	output := func(name string, args ...string) []string {
		out, err := exec.Command(name, args...).Output()
		if err != nil {
			t.Fatalf("%s %v: %v", name, args, err)
		}
		return strings.Split(strings.TrimSpace(string(out)), "\n")
	}
	mentioning := func(lines []string) []string {
		return slices.DeleteFunc(lines, func(s string) bool { return !strings.Contains(s, name) })
	}
	mounts, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		t.Fatal(err)
	}
	var procs, cgroups []string
	cmdlines, _ := filepath.Glob("/proc/[0-9]*/cmdline")
	for _, p := range cmdlines {
		b, _ := os.ReadFile(p)
		procs = append(procs, strings.ReplaceAll(string(b), "\x00", " "))
	}
	for _, pattern := range []string{"/sys/fs/cgroup/*/redoubt-lab/" + name, "/sys/fs/cgroup/redoubt-lab/" + name} {
		found, _ := filepath.Glob(pattern)
		cgroups = append(cgroups, found...)
	}
	var dirs []string
	for _, d := range []string{"/var/lib/redoubt-lab/" + name, "/run/redoubt-lab/" + name} {
		if _, err := os.Stat(d); err == nil {
			dirs = append(dirs, d)
		}
	}
	return map[string][]string{
		"network namespaces": mentioning(output("ip", "netns", "list")),
		"interfaces":         interfaces(t, name, number),
		"nftables tables":    output("nft", "list", "tables"),
		"mounts":             mentioning(strings.Split(string(mounts), "\n")),
		"processes":          mentioning(procs),
		"cgroups":            cgroups,
		"directories":        dirs,
	}
}

// interfaces are those with the lab's alias, or with a name that its number makes.
func interfaces(t *testing.T, name string, number int) (out []string) {
	b, err := exec.Command("ip", "-json", "link").Output()
	if err != nil {
		t.Fatal(err)
	}
	var links []struct{ IfName, IfAlias string }
	if err := json.Unmarshal(b, &links); err != nil {
		t.Fatal(err)
	}
	own := regexp.MustCompile(fmt.Sprintf(`^rdt(br-%[1]d$|l%[1]d-|cut%[1]d-)`, number))
	for _, l := range links {
		if own.MatchString(l.IfName) || strings.HasSuffix(l.IfAlias, " "+name) {
			out = append(out, l.IfName)
		}
	}
	return out
}

func TestLabDownLeavesNothing(t *testing.T) {
	t.Parallel()
	name := labName("leftovers")
	before := traces(t, name, -1)
	c := up(t, "leftovers", 1, 1)
	c.load()
	c.ok("manager-1", "service", "create", "--name", "edge", "--mode", "global", "--publish", "mode=host,published=8080,target=80", image)
	c.ok("manager-1", "network", "create", "back")
	c.ok("manager-1", "service", "create", "--name", "web", "--network", "back", "--publish", "8081:80", image)
	c.lab("kill", "manager-1")
	var state struct {
		Number int `json:"number"`
	}
	b, err := os.ReadFile(filepath.Join("/var/lib/redoubt-lab", name, "lab.json"))
	if err != nil {
		t.Fatal(err)
	}
	c.decode(string(b), &state)
	during := traces(t, name, state.Number)
	for _, kind := range []string{"network namespaces", "interfaces", "processes", "cgroups", "directories"} {
		if len(during[kind]) == len(before[kind]) {
			t.Errorf("%s: nothing to be seen of a running lab", kind)
		}
	}
	c.lab("down")
	for kind, left := range traces(t, name, state.Number) {
		for _, l := range left {
			if !slices.Contains(before[kind], l) {
				t.Errorf("%s: left behind: %s", kind, l)
			}
		}
	}
	c.lab("down") // once more is no error
}
