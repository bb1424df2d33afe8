package rund

import (
	"bytes"
	"math/rand/v2"
	"testing"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/mutate"

	"github.com/redoubt-cluster/redoubt/scheduler/rund/image"
	"github.com/redoubt-cluster/redoubt/scheduler/rund/rundtest"
)

// A layer is larger than anything that is read whole, from an archive as from a
// registry.
func TestLargeLayer(t *testing.T) {
	noise := make([]byte, 9<<20) // does not compress
	rand.NewChaCha8([32]byte{}).Read(noise)
	only, err := rundtest.BuildImage([]rundtest.File{{Name: "noise", Mode: 0o644, Data: noise}}, v1.Config{}, "amd64")
	if err != nil {
		t.Fatal(err)
	}
	layers, err := only.Layers()
	if err != nil {
		t.Fatal(err)
	}
	img, err := mutate.AppendLayers(probeImage, layers...)
	if err != nil {
		t.Fatal(err)
	}
	host, ca, push := testRegistry(t)
	digest := push("app/large:1", img)
	n := newNode(t, func(c *Config) { c.Registries = map[string]image.Registry{host: {CAFile: ca}} })
	var archive bytes.Buffer
	if err := rundtest.SaveDocker(&archive, "redoubt.test/large:1", img); err != nil {
		t.Fatal(err)
	}
	resp, err := n.importTar(&archive)
	if err != nil || resp.GetImages()["redoubt.test/large:1"] == "" {
		t.Fatalf("from an archive: %v, %v", resp, err)
	}
	d := n.desired("env", "FROM")
	d.Spec.Container.Image, d.Spec.Container.Digest = "redoubt.test/large:1", resp.GetImages()["redoubt.test/large:1"]
	n.output(d)
	d = n.desired("env", "FROM")
	d.Spec.Container.Image, d.Spec.Container.Digest = host+"/app/large:1", digest
	n.output(d)
}
