package e2e

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/redoubt-cluster/redoubt/cmd/internal/apiclient"
	"github.com/redoubt-cluster/redoubt/cmd/internal/control/apierr"
	"github.com/redoubt-cluster/redoubt/cmd/internal/control/controlpb"
)

func badImages(t *testing.T, c *cluster) {
	dir := t.TempDir()
	whole, err := os.ReadFile(archive)
	if err != nil {
		t.Fatal(err)
	}
	write := func(name string, data []byte) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, data, 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	load := func(want, path string) {
		t.Helper()
		r := run(t, nil, "lab", "load", "--name", c.name, path)
		if r.code != 1 || strings.Count(r.stderr, "\n") != 1 || !strings.Contains(r.stderr, want) {
			t.Errorf("load %s: want exit 1 and a line with %q, got %v", filepath.Base(path), want, r)
		}
	}
	load("not a complete tar archive", write("broken.tar", []byte(strings.Repeat("no tar ", 4000))))
	load("not a complete tar archive", write("cut.tar", whole[:len(whole)/2]))
	load("not an image archive", write("empty.tar", nil))
	load("no such file", filepath.Join(dir, "nosuch.tar"))
	marker := filepath.Join(os.TempDir(), "redoubt-e2e-escaped")
	load("not an image archive", write("escape.tar", escapingArchive(t, marker)))
	load("made for linux/s390x", write("arch.tar", foreignArchive(t)))
	for _, p := range []string{marker, filepath.Join(c.host("worker-1").DataDir, filepath.Base(marker))} {
		if _, err := os.Lstat(p); err == nil {
			t.Errorf("an archive wrote %s", p)
		}
	}
	c.refused("manager-1", 1, "nosuch:1", nil, "service", "create", "--name", "x", "registry.lab:5000/nosuch:1")
	c.refused("manager-1", 1, "not a reference", nil, "service", "create", "--name", "x", image+"@sha256:abcd")
	c.refused("manager-1", 1, "UPPER", nil, "service", "create", "--name", "x", "redoubt.lab/UPPER:1")
}

// stuck creates a service that cannot come up and says why within its time.
func (c *cluster) stuck(want string, args ...string) {
	c.t.Helper()
	r := c.onIn("manager-1", nil, append([]string{"service", "create", "--name", "stuck", "--timeout", "3s", "-q"}, args...)...)
	if r.code != 3 || !strings.Contains(r.stderr, "not converged within 3s") || !strings.Contains(r.stderr, want) {
		c.t.Errorf("create %v: want exit 3 and %q, got %v", args, want, r)
	}
	if r.code == 3 {
		if ps := c.ok("manager-1", "service", "ps", "--no-trunc", "stuck"); !strings.Contains(ps, want) {
			c.t.Errorf("service ps does not say %q:\n%s", want, ps)
		}
		c.ok("manager-1", "service", "rm", "stuck")
	}
}

func impossibleRequests(t *testing.T, c *cluster) {
	c.stuck("memory", "--reserve-memory", "60t", image)
	c.stuck("free cores", "--reserve-cpu", "4000", image)
	c.stuck("lacks label disk=ssd", "--constraint", "node.labels.disk==ssd", image)
	c.stuck("port 8099/tcp in use", "--replicas", "2", "-p", "published=8099,target=80,mode=host", image)
	c.stuck("exit code 3", image, "exit", "3")
	c.stuck("allow-list", "--mount", "type=bind,source=/etc,target=/x", image)
	c.stuck("nosuchuser", "--user", "nosuchuser", image)
	c.refused("manager-1", 1, "reserved memory", nil, "service", "create", "--name", "x", "--reserve-memory", "100t", image)
}

func portInUse(t *testing.T, c *cluster) {
	stop := c.holdPort("worker-1", "8077")
	defer stop()
	c.stuck("port 8077/tcp is in use on this node", "-p", "published=8077,target=80,mode=host", image)
}

func staleVersion(t *testing.T, c *cluster) {
	c.ok("manager-1", "service", "create", "--name", "stale", "--replicas", "0", image)
	defer c.ok("manager-1", "service", "rm", "stale")
	api, err := apiclient.Dial(t.Context(), filepath.Join(c.host("manager-1").RunDir, apiclient.APISocket))
	if err != nil {
		t.Fatal(err)
	}
	defer api.Close()
	r, err := api.ListServices(t.Context(), &controlpb.ListServicesRequest{Services: []string{"stale"}})
	if err != nil {
		t.Fatal(err)
	}
	svc := r.Services[0].Service
	c.ok("manager-1", "service", "update", "-d", "--label-add", "by=another", "stale")
	svc.Spec.Labels = map[string]string{"by": "me"}
	_, err = api.UpdateService(t.Context(), &controlpb.UpdateServiceRequest{Service: svc.Id, Version: svc.GetMeta().GetVersion(), Spec: svc.Spec})
	if e := apierr.Decode(err); err == nil || e.Reason != apierr.ReasonConflict {
		t.Errorf("an update from a stale version: %v", err)
	}
	if out := c.ok("manager-1", "service", "inspect", "stale"); !strings.Contains(out, "by=another") {
		t.Errorf("the stale update won:\n%s", out)
	}
}

func badRemovals(t *testing.T, c *cluster) {
	c.refused("manager-1", 1, "is up", nil, "node", "rm", "worker-1")
	c.refused("manager-1", 1, "is up", nil, "node", "rm", "manager-1")
	c.refused("manager-1", 1, "does not take itself out", nil, "node", "rm", "--force", "manager-1")
	c.refused("manager-1", 1, "no node", nil, "node", "rm", "nosuch")
	c.refused("manager-1", 1, "no node", nil, "node", "rm", "../manager-1")
	c.refused("manager-1", 1, "no node", nil, "node", "promote", "nosuch")
	c.refused("manager-1", 1, "is a manager already", nil, "node", "promote", "manager-1")
	c.refused("manager-1", 1, "does not take itself out", nil, "node", "demote", "manager-1")
	c.refused("manager-1", 1, "is a worker already", nil, "node", "demote", "worker-1")
	c.refused("manager-1", 2, "use `redoubt node promote`", nil, "node", "update", "--role", "manager", "worker-1")
	c.refused("manager-1", 1, "the cluster and all its services are lost", nil, "leave")
}

func notOnWorkers(_ *testing.T, c *cluster) {
	for _, args := range [][]string{
		{"node", "ls"}, {"node", "rm", "worker-2"}, {"join-token", "worker"}, {"join-token", "ls"}, {"unlock-key", "rotate"},
		{"unlock-key", "slot", "ls"}, {"service", "ls"}, {"service", "create", "--name", "x", image}, {"service", "logs", "x"}, {"service", "rm", "x"},
	} {
		c.refused("worker-1", 5, "run the command on a manager", nil, args...)
		c.refused("worker-2", 1, "in no cluster", nil, args...)
	}
	c.refused("worker-1", 1, "no manager", nil, "unlock")
	c.refused("worker-2", 1, "in no cluster", nil, "leave")
}
