package e2e

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/tarball"

	"github.com/redoubt-cluster/redoubt/scheduler/imagepolicy"
	"github.com/redoubt-cluster/redoubt/scheduler/imagepolicy/imagepolicytest"
	"github.com/redoubt-cluster/redoubt/scheduler/rund/rundtest"
)

// signedImage loads the demo image under a name of its own on every host, beside it
// what the signers say of it.
func (c *cluster) signedImage(ref string, predicates map[string]*imagepolicytest.Signer) {
	c.t.Helper()
	img, err := tarball.ImageFromPath(archive, nil)
	if err != nil {
		c.t.Fatal(err)
	}
	cf, err := img.ConfigFile()
	if err != nil {
		c.t.Fatal(err)
	}
	cf = cf.DeepCopy()
	cf.Config.Labels = map[string]string{"name": ref} // a digest of its own
	if img, err = mutate.ConfigFile(img, cf); err != nil {
		c.t.Fatal(err)
	}
	d, err := img.Digest()
	if err != nil {
		c.t.Fatal(err)
	}
	var beside []v1.Image
	for predicate, s := range predicates {
		a, err := rundtest.Attach(img, s.Bundle(d.String(), predicate), imagepolicy.BundleType)
		if err != nil {
			c.t.Fatal(err)
		}
		beside = append(beside, a)
	}
	var b bytes.Buffer
	if err := rundtest.SaveOCI(&b, ref, img, beside...); err != nil {
		c.t.Fatal(err)
	}
	file := filepath.Join(c.t.TempDir(), "image.tar")
	if err := os.WriteFile(file, b.Bytes(), 0o600); err != nil {
		c.t.Fatal(err)
	}
	c.lab("load", file)
}

// TestImageAdmission: with an image policy in force only what was signed and attested
// becomes a service; what came to be a service without being asked about is refused by
// the nodes; and what runs goes on.
func TestImageAdmission(t *testing.T) {
	t.Parallel()
	c := up(t, "images", 1, 1)
	const m = "manager-1"
	c.lab("registry") // it has nothing, and says so
	s, stranger := imagepolicytest.NewSigner(), imagepolicytest.NewSigner()
	c.signedImage("registry.lab:5000/app/unsigned:1", nil)
	c.signedImage("registry.lab:5000/app/foreign:1", map[string]*imagepolicytest.Signer{imagepolicytest.Sign: stranger, imagepolicytest.SPDX: s})
	c.signedImage("registry.lab:5000/app/bare:1", map[string]*imagepolicytest.Signer{imagepolicytest.Sign: s})
	c.signedImage("registry.lab:5000/app/good:1", map[string]*imagepolicytest.Signer{imagepolicytest.Sign: s, imagepolicytest.SPDX: s})
	c.ok(m, "service", "create", "--name", "before", "--replicas", "1", "--restart-delay", "1s", "registry.lab:5000/app/unsigned:1")

	policy := fmt.Sprintf("format: 1\nsigners:\n  - name: release\n    keys:\n      - |\n        %s\nrules:\n  - name: own\n    images: [\"registry.lab:5000/app/*\"]\n    signatures: {by: [release]}\n    attestations: [{type: %s, by: [release]}]\n",
		imagepolicytest.Indent(s.PEM(), 8), imagepolicytest.SPDX)
	c.refused(m, 1, "admit nothing", []byte("format: 1\nrules: []\n"), "image", "policy", "set", "-")
	if r := c.onIn(m, []byte(policy), "image", "policy", "set", "-"); r.code != 0 {
		t.Fatal(r)
	}
	if out := c.ok(m, "image", "policy", "show"); out != policy {
		t.Errorf("the policy is shown as %q", out)
	}

	create := func(name, image string) []string {
		return []string{"service", "create", "--name", name, image}
	}
	c.refused(m, 1, "rule own: it has no signature by release", nil, create("unsigned", "registry.lab:5000/app/unsigned:1")...)
	c.refused(m, 1, "signed with another key", nil, create("foreign", "registry.lab:5000/app/foreign:1")...)
	c.refused(m, 1, "rule own: it has no attestation "+imagepolicytest.SPDX, nil, create("bare", "registry.lab:5000/app/bare:1")...)
	c.refused(m, 1, "no rule is for docker.io/library/nginx", nil, create("hub", "nginx@sha256:"+strings.Repeat("ab", 32))...)
	c.ok(m, create("good", "registry.lab:5000/app/good:1")...)
	if r := c.on(m, "image", "policy", "check", "registry.lab:5000/app/bare:1"); r.code != 1 || !strings.Contains(r.stdout, "refused") {
		t.Error(r)
	}
	c.ok(m, "image", "policy", "check", "registry.lab:5000/app/good:1")

	// What runs goes on, also over a restart of what asks.
	was, judged := c.tasks(m, "before")[0], false
	syscall.Kill(c.daemons(c.host("worker-1"))["redoubt-rund"], syscall.SIGKILL)
	running := func(service string, n int) {
		t.Helper()
		eventually(t, time.Minute, func() string {
			if have := c.running(m, service); have["worker-1"] != n {
				return fmt.Sprintf("%s runs %v, want %d", service, have, n)
			}
			return ""
		})
	}
	running("before", 1)
	if now := c.tasks(m, "before")[0]; now.ID != was.ID {
		t.Errorf("the task that ran was replaced: %v, %v", was, now)
	}
	// Nobody asked the manager about another one of the same: the node refuses it.
	c.ok(m, "service", "update", "--detach", "--replicas", "2", "before")
	eventually(t, time.Minute, func() string {
		for _, task := range c.tasks(m, "before") {
			if strings.Contains(task.Error, "the image policy refuses it, rule own: it has no signature by release") {
				return ""
			}
		}
		return fmt.Sprintf("no task was refused: %v", c.tasks(m, "before"))
	})
	running("before", 1)
	c.ok(m, "service", "update", "--replicas", "2", "good")
	running("good", 2)
	// Compliance names what runs and would not be admitted now, and nothing else.
	for _, x := range c.controls(c.on(m, "compliance", "run", "--scope", "cluster", "--format", "json").stdout) {
		if x.Control != "containers-image" || x.Target.Name != "worker-1" {
			continue
		}
		if found := strings.Join(x.Evidence, "\n"); x.Outcome != "fail" || len(x.Evidence) != 1 || !strings.Contains(found, "task "+was.ID) || !strings.Contains(found, "rule own: it has no signature by release") {
			t.Errorf("%s %q", x.Outcome, found)
		}
		judged = true
	}
	if !judged {
		t.Error("worker-1 does not answer for containers-image")
	}

	c.ok(m, "image", "policy", "rm")
	running("before", 2)
	c.ok(m, create("unsigned", "registry.lab:5000/app/unsigned:1")...)
	if all := c.ok(m, "audit", "ls", "--last", "4000", "--format", "json"); !strings.Contains(all, "imagepolicy.set") || !strings.Contains(all, "imagepolicy.remove") {
		t.Error("the audit log does not have who changed the policy")
	}
}
