package rund

import (
	"context"
	"fmt"
	"os"
	"path"
	"slices"
	"testing"
	"time"

	containerd "github.com/containerd/containerd/v2/client"
	"github.com/containerd/containerd/v2/core/containers"
	"github.com/containerd/containerd/v2/pkg/cio"
	"github.com/containerd/containerd/v2/pkg/namespaces"
	"github.com/containerd/containerd/v2/pkg/oci"
	specs "github.com/opencontainers/runtime-spec/specs-go"

	"github.com/redoubt-cluster/redoubt/internal/ident"
	"github.com/redoubt-cluster/redoubt/scheduler/rund/image"
	"github.com/redoubt-cluster/redoubt/scheduler/rund/rundpb"
	"github.com/redoubt-cluster/redoubt/scheduler/rund/tasklog"
)

// BenchmarkStart measures a task from Apply to RUNNING beside two others, in
// turns so that all see the same machine:
//
//   - same: containerd's client that starts the very same bundle. It is given
//     the specification, the namespaces, the generated files and the remapped
//     image ready-made, and logs through the same process; only what
//     containerd does is in its time.
//   - bare: the same client with the least container of the same image: no
//     user namespace, no network, no log. What the sandbox costs.
func BenchmarkStart(b *testing.B) {
	n := newNode(b)
	p := newPeer(b, n)
	kinds := []struct {
		name  string
		start func(i int) (stop func())
	}{
		{"rund", func(int) func() {
			d := n.desired()
			n.apply(d)
			n.awaitPhase(d.GetTaskId(), rundpb.Phase_PHASE_RUNNING)
			return func() { n.apply(); n.awaitEmpty() }
		}},
		{"same", p.same},
		{"bare", p.bare},
	}
	times := make([][]time.Duration, len(kinds))
	round := func(i int) {
		for k := range kinds {
			kind := (k + i + 1) % len(kinds)
			begin := time.Now()
			stop := kinds[kind].start(i)
			took := time.Since(begin)
			stop()
			if i >= 0 {
				times[kind] = append(times[kind], took)
			}
		}
	}
	round(-1) // remaps the image, warms what can be warm
	b.ResetTimer()
	for i := range b.N {
		round(i)
	}
	b.StopTimer()
	for k, kind := range kinds {
		slices.Sort(times[k])
		b.ReportMetric(float64(times[k][b.N/2].Microseconds())/1000, kind.name+"-ms")
	}
	b.ReportMetric(float64(times[0][b.N/2])/float64(times[1][b.N/2]), "ratio")
}

// peer is containerd's own client.
type peer struct {
	b      *testing.B
	n      *node
	client *containerd.Client
	ctx    context.Context
	image  containerd.Image
	spec   *specs.Spec
	parent string // the remapped image
	id     string // whose namespaces and files the bundle uses
}

// newPeer takes the bundle from a task of rund's and keeps that task, created
// and never started, for its namespaces and files.
func newPeer(b *testing.B, n *node) *peer {
	b.Helper()
	must := func(err error) {
		b.Helper()
		if err != nil {
			b.Fatal(err)
		}
	}
	client, err := containerd.New(ctrd.Socket)
	must(err)
	b.Cleanup(func() { client.Close() })
	p := &peer{b: b, n: n, client: client, ctx: namespaces.WithNamespace(context.Background(), Namespace), id: ident.New()}
	p.image, err = client.GetImage(p.ctx, probeRef)
	must(err)

	d := n.desired()
	n.apply(d)
	n.awaitPhase(d.GetTaskId(), rundpb.Phase_PHASE_RUNNING)
	c, err := client.LoadContainer(p.ctx, d.GetTaskId())
	must(err)
	p.spec, err = c.Spec(p.ctx)
	must(err)
	info, err := client.SnapshotService(image.Snapshotter).Stat(p.ctx, d.GetTaskId())
	must(err)
	p.parent = info.Parent
	n.apply()
	n.awaitEmpty()

	must(n.server.netns.Create(p.id))
	dir := n.server.taskDir(p.id)
	must(dir.create("peer", d.GetEndpoint(), nil))
	b.Cleanup(func() {
		if err := n.server.wreck(context.Background(), p.id, p.id); err != nil {
			b.Error(err)
		}
	})
	for i, ns := range p.spec.Linux.Namespaces {
		switch ns.Type {
		case specs.UserNamespace:
			p.spec.Linux.Namespaces[i].Path = n.server.netns.UserPath(p.id)
		case specs.NetworkNamespace:
			p.spec.Linux.Namespaces[i].Path = n.server.netns.Path(p.id)
		}
	}
	for i, m := range p.spec.Mounts {
		if path.Base(path.Dir(m.Source)) == d.GetTaskId() {
			p.spec.Mounts[i].Source = path.Join(string(dir), path.Base(m.Source))
		}
	}
	return p
}

func (p *peer) same(i int) (stop func()) {
	id := fmt.Sprintf("peer-%d", i+1)
	dir := path.Join(string(p.n.server.taskDir(p.id)), id)
	if err := os.Mkdir(dir, 0o700); err != nil {
		p.b.Fatal(err)
	}
	p.spec.Linux.CgroupsPath = path.Join(parent, id)
	base := p.n.config.UserNS.Base
	log := tasklog.Spec{Dir: dir, MaxBytes: p.n.config.Limits.LogBytes, UID: base + p.spec.Process.User.UID, GID: base + p.spec.Process.User.GID}
	snapshot := func(ctx context.Context, client *containerd.Client, c *containers.Container) error {
		c.Snapshotter, c.SnapshotKey, c.Image = image.Snapshotter, id, probeRef
		_, err := client.SnapshotService(image.Snapshotter).Prepare(ctx, id, p.parent)
		return err
	}
	return p.run(id, cio.BinaryIO(p.n.server.logger, map[string]string{tasklog.Command: log.String()}), snapshot, containerd.WithSpec(p.spec))
}

func (p *peer) bare(i int) (stop func()) {
	id := fmt.Sprintf("bare-%d", i+1)
	return p.run(id, cio.NullIO, containerd.WithNewSnapshot(id, p.image), containerd.WithNewSpec(oci.WithImageConfig(p.image)))
}

func (p *peer) run(id string, io cio.Creator, opts ...containerd.NewContainerOpts) (stop func()) {
	c, err := p.client.NewContainer(p.ctx, id, opts...)
	if err != nil {
		p.b.Fatal(err)
	}
	task, err := c.NewTask(p.ctx, io)
	if err != nil {
		p.b.Fatal(err)
	}
	if err := task.Start(p.ctx); err != nil {
		p.b.Fatal(err)
	}
	return func() {
		if _, err := task.Delete(p.ctx, containerd.WithProcessKill); err != nil {
			p.b.Fatal(err)
		}
		if err := c.Delete(p.ctx, containerd.WithSnapshotCleanup); err != nil {
			p.b.Fatal(err)
		}
	}
}
