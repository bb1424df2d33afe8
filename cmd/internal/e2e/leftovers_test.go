package e2e

import (
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// traces are everything on this machine that could be left of a lab.
func traces(t *testing.T, name string) map[string][]string {
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
		"interfaces":         interfaces(output("ip", "-brief", "link")),
		"nftables tables":    output("nft", "list", "tables"),
		"mounts":             mentioning(strings.Split(string(mounts), "\n")),
		"processes":          mentioning(procs),
		"cgroups":            cgroups,
		"directories":        dirs,
	}
}

// interfaces keeps the names of those that labs make.
func interfaces(lines []string) (out []string) {
	for _, l := range lines {
		name, _, _ := strings.Cut(strings.Fields(l)[0], "@")
		if strings.HasPrefix(name, "rdt") {
			out = append(out, name)
		}
	}
	return out
}

func TestLabDownLeavesNothing(t *testing.T) {
	name := labName("leftovers")
	before := traces(t, name)
	c := up(t, "leftovers", 1, 1)
	c.load()
	c.ok("manager-1", "service", "create", "--name", "edge", "--mode", "global", "--publish", "mode=host,published=8080,target=80", image)
	c.lab("kill", "manager-1")
	during := traces(t, name)
	for _, kind := range []string{"network namespaces", "interfaces", "processes", "cgroups", "directories"} {
		if len(during[kind]) == len(before[kind]) {
			t.Errorf("%s: nothing to be seen of a running lab", kind)
		}
	}
	c.lab("down")
	for kind, left := range traces(t, name) {
		for _, l := range left {
			if !slices.Contains(before[kind], l) {
				t.Errorf("%s: left behind: %s", kind, l)
			}
		}
	}
	c.lab("down") // once more is no error
}
