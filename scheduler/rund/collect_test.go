package rund

import (
	"context"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/mutate"

	"github.com/containerd/containerd/v2/core/images"
	"github.com/containerd/containerd/v2/pkg/namespaces"

	"github.com/redoubt-cluster/redoubt/scheduler/rund/image"
	"github.com/redoubt-cluster/redoubt/scheduler/rund/rundpb"
)

// pulled makes an image look as if it came from a registry.
func (n *node) pulled(ref string) (digest string) {
	n.t.Helper()
	img, err := mutate.Config(probeImage, v1.Config{Entrypoint: []string{"/probe"}, Cmd: []string{"wait"}, Env: []string{"REF=" + ref}})
	if err != nil {
		n.t.Fatal(err)
	}
	digest = n.load(ref, img)
	ctx := namespaces.WithNamespace(n.ctx(), Namespace)
	if _, err := n.server.client.ImageService().Update(ctx, images.Image{Name: ref, Labels: map[string]string{"redoubt.loaded": ""}}, "labels.redoubt.loaded"); err != nil {
		n.t.Fatal(err)
	}
	return digest
}

func (n *node) hasImage(ref string) bool {
	n.t.Helper()
	_, err := n.server.client.ImageService().Get(namespaces.WithNamespace(n.ctx(), Namespace), ref)
	if err != nil && !errdefs.IsNotFound(err) {
		n.t.Fatal(err)
	}
	return err == nil
}

// TestCollect: what is unused for long goes, what is used or loaded by hand
// stays, and a disk that is full takes the unused at once.
func TestCollect(t *testing.T) {
	const used, unused = "redoubt.test/used:1", "redoubt.test/unused:1"
	n := newNode(t)
	d := n.desired()
	d.Spec.Container.Image, d.Spec.Container.Digest = used, n.pulled(used)
	other := n.desired()
	other.Spec.Container.Image, other.Spec.Container.Digest = unused, n.pulled(unused)
	n.apply(d, other)
	n.awaitPhase(d.GetTaskId(), rundpb.Phase_PHASE_RUNNING)
	n.awaitPhase(other.GetTaskId(), rundpb.Phase_PHASE_RUNNING)
	now := time.Now()
	collect := func(at time.Time) {
		t.Helper()
		if err := n.server.collect(n.ctx(), at); err != nil {
			t.Fatal(err)
		}
	}
	n.server.config.GC.DiskHighPercent = 100 // whatever this machine's is
	collect(now)                             // sees both in use
	n.apply(d)
	n.await(d.GetTaskId(), "the other to be gone", func(*rundpb.TaskActual) bool { return len(n.server.hub.all()) == 1 })
	collect(now.Add(6 * 24 * time.Hour))
	if !n.hasImage(used) || !n.hasImage(unused) {
		t.Fatal("an image went before its time")
	}
	collect(now.Add(8 * 24 * time.Hour))
	if !n.hasImage(used) || n.hasImage(unused) || !n.hasImage(probeRef) {
		t.Errorf("used %v, unused %v, loaded by hand %v", n.hasImage(used), n.hasImage(unused), n.hasImage(probeRef))
	}
	// Other tests may have left images of theirs.
	resp, err := n.client.Probe(n.ctx(), &rundpb.ProbeRequest{})
	if err != nil || resp.GetStorage().GetImagesRemoved() < 1 || resp.GetStorage().GetDiskBytes() == 0 {
		t.Errorf("report %v, %v", resp.GetStorage(), err)
	}
	// Still usable by what was started: and startable again, as it is in use.
	again := n.desired()
	again.Spec = d.Spec
	n.apply(d, again)
	n.awaitPhase(again.GetTaskId(), rundpb.Phase_PHASE_RUNNING)

	// A full disk.
	n.pulled(unused)
	n.server.config.GC.DiskHighPercent, n.server.config.GC.DiskLowPercent = 0, 0
	collect(now.Add(9 * 24 * time.Hour)) // seen for the first time
	collect(now.Add(9*24*time.Hour + time.Minute))
	if n.hasImage(unused) || !n.hasImage(used) {
		t.Errorf("full disk: unused %v, used %v", n.hasImage(unused), n.hasImage(used))
	}
	if m := n.server.storage.GetMessage(); m == "" {
		t.Error("a disk that stays full is not told")
	}
}

// TestCollectDead: of ended containers the last few of a slot keep their log.
func TestCollectDead(t *testing.T) {
	n := newNode(t, func(c *Config) { c.GC.DeadPerSlot = 1 })
	first, second := n.desired("echo", "one"), n.desired("echo", "two")
	second.ServiceId = first.ServiceId
	n.apply(first)
	n.awaitPhase(first.GetTaskId(), rundpb.Phase_PHASE_EXITED)
	n.apply(first, second)
	n.awaitPhase(second.GetTaskId(), rundpb.Phase_PHASE_EXITED)
	if err := n.server.collect(n.ctx(), time.Now()); err != nil {
		t.Fatal(err)
	}
	if log := n.logText(second.GetTaskId()); log != "two\n" {
		t.Errorf("the last one's log: %q", log)
	}
	ctx := namespaces.WithNamespace(context.Background(), Namespace)
	if _, err := n.server.client.SnapshotService(image.Snapshotter).Stat(ctx, first.GetTaskId()); !errdefs.IsNotFound(err) {
		t.Errorf("the first one's file system: %v", err)
	}
	if a := n.awaitPhase(first.GetTaskId(), rundpb.Phase_PHASE_EXITED); a.GetExitCode() != 0 {
		t.Errorf("how it ended is forgotten: %v", a)
	}
	n.restart()
	n.awaitPhase(first.GetTaskId(), rundpb.Phase_PHASE_EXITED)
}
