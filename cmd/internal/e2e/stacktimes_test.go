package e2e

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"
)

// TestStackTimes measures stack deploy of REDOUBT_STACK_SERVICES services (3) with two
// networks, a secret and a config on five hosts, from the command to its end, which is when
// all of them have run for a while; the same again; and stack rm. REDOUBT_STACK_ROUNDS
// times (1).
func TestStackTimes(t *testing.T) {
	services, rounds, measured := 3, 1, false
	for name, n := range map[string]*int{"REDOUBT_STACK_SERVICES": &services, "REDOUBT_STACK_ROUNDS": &rounds} {
		if v, err := strconv.Atoi(os.Getenv(name)); err == nil && v > 0 {
			*n, measured = v, true
		}
	}
	if !measured {
		t.Parallel()
	}
	c := up(t, "stack-times", 3, 2)
	c.load()
	var b strings.Builder
	b.WriteString("services:\n")
	for i := range services {
		fmt.Fprintf(&b, "  s%d:\n    image: %s\n    networks: [front, back]\n    secrets: [token]\n    configs: [site]\n", i, image)
	}
	b.WriteString("networks: {front: , back: }\nsecrets: {token: {environment: HOME}}\nconfigs: {site: {content: hello}}\n")
	file := filepath.Join(t.TempDir(), "compose.yml")
	if err := os.WriteFile(file, []byte(b.String()), 0o600); err != nil {
		t.Fatal(err)
	}
	took := map[string][]time.Duration{}
	for range rounds {
		for _, step := range []struct {
			name string
			args []string
		}{
			{"deploy", []string{"deploy", "-q", "-c", file, "many"}},
			{"deploy, detached, nothing to do", []string{"deploy", "-d", "-c", file, "many"}},
			{"rm", []string{"rm", "many"}},
		} {
			began := time.Now()
			c.ok("manager-1", append([]string{"stack"}, step.args...)...)
			took[step.name] = append(took[step.name], time.Since(began))
		}
	}
	for name, all := range took {
		slices.Sort(all)
		t.Logf("%s of %d services on 5 hosts: median %v, %v to %v, n = %d", name, services,
			all[len(all)/2].Round(10*time.Millisecond), all[0].Round(10*time.Millisecond), all[len(all)-1].Round(10*time.Millisecond), len(all))
	}
}
