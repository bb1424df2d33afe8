package rund

import (
	"archive/tar"
	"bytes"
	"strings"
	"testing"

	v1 "github.com/google/go-containerregistry/pkg/v1"

	"github.com/redoubt-cluster/redoubt/scheduler/rund/image"
	"github.com/redoubt-cluster/redoubt/scheduler/rund/rundpb"
	"github.com/redoubt-cluster/redoubt/scheduler/rund/rundtest"
)

// rejects runs an image that is here or in a registry and wants it refused for
// good.
func (n *node) rejects(ref, digest, want string) {
	n.t.Helper()
	d := n.desired("env", "FROM")
	d.Spec.Container.Image, d.Spec.Container.Digest = ref, digest
	n.apply(d)
	a := n.awaitPhase(d.GetTaskId(), rundpb.Phase_PHASE_FAILED)
	if !a.GetRejected() || !strings.Contains(a.GetError(), want) {
		n.t.Errorf("%s: rejected=%v %q, want %q", ref, a.GetRejected(), a.GetError(), want)
	}
}

func mustBuild(t *testing.T, config v1.Config, files ...rundtest.File) v1.Image {
	t.Helper()
	img, err := rundtest.BuildImage(files, config, "amd64")
	if err != nil {
		t.Fatal(err)
	}
	return img
}

// What no other attempt on this node would change is not tried again.
func TestUnusableImages(t *testing.T) {
	n := newNode(t)
	for name, img := range map[string]v1.Image{
		"stop signal":             mustBuild(t, v1.Config{Cmd: []string{"/x"}, StopSignal: strings.Repeat("9", 5000)}, rundtest.File{Name: "x", Mode: 0o755}),
		"/proc of the image is n": mustBuild(t, v1.Config{Cmd: []string{"/x"}}, rundtest.File{Name: "proc", Type: tar.TypeSymlink, Link: "/tmp", Mode: 0o777}),
		"/sys of the image is n":  mustBuild(t, v1.Config{Cmd: []string{"/x"}}, rundtest.File{Name: "sys", Type: tar.TypeSymlink, Link: "tmp", Mode: 0o777}),
	} {
		n.rejects("redoubt.test/unusable:1", n.load("redoubt.test/unusable:1", img), name)
	}
}

// An image that is small where it lies and large where it is used.
func TestImageBombs(t *testing.T) {
	host, ca, push := testRegistry(t)
	n := newNode(t, func(c *Config) {
		c.Limits.ImageBytes = 64 << 20
		c.Registries = map[string]image.Registry{host: {CAFile: ca}}
	})
	bomb := mustBuild(t, v1.Config{Cmd: []string{"/x"}}, rundtest.File{Name: "x", Mode: 0o755, Data: make([]byte, 70<<20)})
	n.rejects(host+"/bomb:1", push("bomb:1", bomb), "when it is unpacked")
	n.rejects("redoubt.test/bomb:1", n.load("redoubt.test/bomb:1", bomb), "when it is unpacked")

	fat := mustBuild(t, v1.Config{Cmd: []string{"/x"}, Env: []string{"A=" + strings.Repeat("a", 5<<20)}}, rundtest.File{Name: "x", Mode: 0o755})
	n.rejects(host+"/fat:1", push("fat:1", fat), "manifest, index or configuration")
	var b bytes.Buffer
	if err := rundtest.SaveDocker(&b, "redoubt.test/fat:1", fat); err != nil {
		t.Fatal(err)
	}
	if _, err := n.importTar(&b); err == nil || !strings.Contains(err.Error(), "manifest, index or configuration") {
		t.Errorf("imported: %v", err)
	}
}
