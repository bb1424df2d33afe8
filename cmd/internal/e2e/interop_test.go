//go:build interop

package e2e

import (
	"encoding/pem"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// TestInterop looks at a running cluster with other people's tools.
func TestInterop(t *testing.T) {
	t.Parallel()
	c := up(t, "interop", 1, 1)
	c.load()
	c.ok("manager-1", "service", "create", "--name", "edge", "--replicas", "1", "--publish", "mode=host,published=8080,target=80", image)
	t.Run("openssl verifies the nodes' certificates", func(t *testing.T) { opensslVerifies(t, c) })
	t.Run("openssl without a post-quantum group gets no handshake", func(t *testing.T) { opensslRefused(t, c) })
	t.Run("nft shows one owned table a family", func(t *testing.T) { nftShows(t, c) })
	t.Run("ctr sees the container as it was asked for", func(t *testing.T) { ctrSees(t, c) })
	t.Run("curl reads health and metrics", func(t *testing.T) { curlReads(t, c) })
}

// tool runs an outside program on a host.
func tool(t *testing.T, c *cluster, host string, stdin string, args ...string) (string, error) {
	t.Helper()
	cmd := exec.Command(filepath.Join(binDir, "redoubt"), append([]string{"lab", "exec", "--name", c.name, host, "--"}, args...)...)
	cmd.Stdin = strings.NewReader(stdin)
	out, err := cmd.CombinedOutput()
	return string(out), err
}

func opensslVerifies(t *testing.T, c *cluster) {
	for _, h := range c.hosts() {
		var leaf struct{ Chain [][]byte }
		readFile(t, filepath.Join(h.DataDir, "control", "leaf"), &leaf)
		dir := t.TempDir()
		var files []string
		for i, der := range leaf.Chain {
			path := filepath.Join(dir, string(rune('0'+i))+".pem")
			if err := os.WriteFile(path, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), 0o600); err != nil {
				t.Fatal(err)
			}
			files = append(files, path)
		}
		if len(files) != 3 {
			t.Fatalf("%s: a chain of %d", h.Name, len(files))
		}
		out, err := exec.Command("openssl", "verify", "-x509_strict", "-CAfile", files[2], "-untrusted", files[1], files[0]).CombinedOutput()
		if err != nil {
			t.Errorf("%s: %v: %s", h.Name, err, out)
		}
		out, err = exec.Command("openssl", "x509", "-in", files[0], "-noout", "-text").CombinedOutput()
		if err != nil || !strings.Contains(string(out), "URI:spiffe://") || !strings.Contains(string(out), "CA:FALSE") {
			t.Errorf("%s: %v: %s", h.Name, err, out)
		}
	}
}

func opensslRefused(t *testing.T, c *cluster) {
	addr := net.JoinHostPort(c.host("manager-1").Address, "2377")
	for _, args := range [][]string{{"-tls1_3", "-alpn", "h2"}, {"-tls1_2", "-alpn", "h2"}, {"-tls1_3", "-groups", "X25519:P-256", "-alpn", "h2"}} {
		cmd := exec.Command("openssl", append([]string{"s_client", "-connect", addr}, args...)...)
		cmd.Stdin = strings.NewReader("")
		out, err := cmd.CombinedOutput()
		if err == nil || strings.Contains(string(out), "BEGIN CERTIFICATE") {
			t.Errorf("openssl %v got a handshake: %s", args, out)
		}
	}
}

func nftShows(t *testing.T, c *cluster) {
	out, err := tool(t, c, "worker-1", "", "nft", "list", "tables")
	if err != nil || !strings.Contains(out, "table inet redoubt") || !strings.Contains(out, "table bridge redoubt") {
		t.Fatalf("%v: %s", err, out)
	}
	out, err = tool(t, c, "worker-1", "", "nft", "list", "table", "inet", "redoubt")
	if err != nil || !strings.Contains(out, "8080") {
		t.Errorf("the published port is not in the table: %v: %s", err, out)
	}
}

func ctrSees(t *testing.T, c *cluster) {
	tasks := c.tasks("manager-1", "edge")
	if len(tasks) != 1 {
		t.Fatalf("%d tasks", len(tasks))
	}
	out, err := tool(t, c, "worker-1", "", "ctr", "-n", "redoubt", "containers", "info", tasks[0].ID)
	if err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	for _, want := range []string{`"noNewPrivileges": true`, `"type": "user"`, `"defaultAction": "SCMP_ACT_ERRNO"`} {
		if !strings.Contains(out, want) {
			t.Errorf("the spec lacks %s", want)
		}
	}
	if strings.Contains(out, "CAP_SYS_ADMIN") || strings.Contains(out, "CAP_NET_RAW") {
		t.Error("the container holds a capability it should not")
	}
}

func curlReads(t *testing.T, c *cluster) {
	h := c.host("worker-1")
	for path, want := range map[string]string{"metrics": "redoubt_agent_session 1", "healthz": "ok", "readyz": "ok"} {
		out, err := exec.Command("curl", "-sf", "--unix-socket", filepath.Join(h.RunDir, "metrics.sock"), "http://node/"+path).Output()
		if err != nil || !strings.Contains(string(out), want) {
			t.Errorf("%s: %v: %.300s", path, err, out)
		}
	}
	c.lab("stop", "manager-1")
	c.lab("start", "manager-1")
	out, err := exec.Command("curl", "-s", "-o", "/dev/null", "-w", "%{http_code}", "--unix-socket", filepath.Join(c.host("manager-1").RunDir, "metrics.sock"), "http://node/readyz").Output()
	if err != nil || string(out) != "503" {
		t.Errorf("a locked manager is ready: %s %v", out, err)
	}
}
