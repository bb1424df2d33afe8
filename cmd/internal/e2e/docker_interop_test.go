//go:build interop

package e2e

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

// TestInteropDockerDiscovery: Prometheus finds nodes, services and tasks by docker.sock.
func TestInteropDockerDiscovery(t *testing.T) {
	t.Parallel()
	c := up(t, "dockersd", 1, 1)
	c.load()
	c.ok("manager-1", "network", "create", "back")
	c.ok("manager-1", "service", "create", "--name", "edge", "--label", "team=web", "--network", "back", "--replicas", "2", "--publish", "published=8080,target=80", image)
	dir := t.TempDir()
	config := "scrape_configs:\n"
	for _, role := range []string{"nodes", "services", "tasks"} {
		config += fmt.Sprintf("- job_name: %s\n  dockerswarm_sd_configs:\n  - {host: 'unix://%s/docker.sock', role: %s, port: 9100}\n", role, c.host("manager-1").RunDir, role)
	}
	path := filepath.Join(dir, "prometheus.yml")
	if err := os.WriteFile(path, []byte(config), 0o600); err != nil {
		t.Fatal(err)
	}
	for role, want := range map[string]map[string]string{
		"nodes":    {"__meta_dockerswarm_node_hostname": "worker-1", "__meta_dockerswarm_node_role": "worker", "__meta_dockerswarm_node_status": "ready"},
		"services": {"__meta_dockerswarm_service_name": "edge", "__meta_dockerswarm_service_mode": "replicated", "__meta_dockerswarm_service_label_team": "web"},
		"tasks":    {"__meta_dockerswarm_service_name": "edge", "__meta_dockerswarm_task_state": "running", "__meta_dockerswarm_network_name": "back", "__meta_dockerswarm_node_hostname": "worker-1"},
	} {
		eventually(t, 40*time.Second, func() string {
			out, err := tool(t, c, "manager-1", "", outside(t, "REDOUBT_PROMTOOL"), "check", "service-discovery", "--timeout=4s", path, role)
			var found []struct {
				DiscoveredLabels map[string]string `json:"discoveredLabels"`
			}
			if i := strings.IndexByte(out, '['); i < 0 || json.Unmarshal([]byte(out[i:]), &found) != nil {
				return fmt.Sprintf("%s: %v: %s", role, err, out)
			}
			if !slices.ContainsFunc(found, func(f struct {
				DiscoveredLabels map[string]string `json:"discoveredLabels"`
			}) bool {
				for k, v := range want {
					if f.DiscoveredLabels[k] != v {
						return false
					}
				}
				return true
			}) {
				return fmt.Sprintf("%s: none has %v: %s", role, want, out)
			}
			return ""
		})
	}
}

// TestInteropMobyClient: moby's own client library passes its calls.
func TestInteropMobyClient(t *testing.T) {
	t.Parallel()
	c := up(t, "mobyclient", 1, 1)
	c.load()
	if out, err := tool(t, c, "manager-1", "", outside(t, "REDOUBT_MOBY_CLIENT"), image); err != nil {
		t.Errorf("%v: %s", err, out)
	}
}

// outside is the path of an outside tool that a variable names.
func outside(t *testing.T, variable string) string {
	t.Helper()
	path, err := filepath.Abs(os.Getenv(variable))
	if err != nil || os.Getenv(variable) == "" {
		t.Fatalf("%s names no tool: make test-interop does", variable)
	}
	return path
}
