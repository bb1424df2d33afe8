package rund

import (
	"context"
	"fmt"
	"testing"

	containerd "github.com/containerd/containerd/v2/client"
	"github.com/containerd/containerd/v2/pkg/cio"
	"github.com/containerd/containerd/v2/pkg/namespaces"
	"github.com/containerd/containerd/v2/pkg/oci"

	"github.com/redoubt-cluster/redoubt/scheduler/rund/rundpb"
)

// BenchmarkStart compares a task from Apply to RUNNING with a bare containerd
// client that makes the least container of the same image: no user namespace,
// no network, no log. The ratio is what the sandbox costs.
func BenchmarkStart(b *testing.B) {
	b.Run("redoubt", func(b *testing.B) {
		b.StopTimer()
		n := newNode(b)
		for range b.N {
			d := n.desired()
			b.StartTimer()
			n.apply(d)
			n.awaitPhase(d.GetTaskId(), rundpb.Phase_PHASE_RUNNING)
			b.StopTimer()
			n.apply()
			n.awaitEmpty()
		}
	})
	b.Run("bare", func(b *testing.B) {
		b.StopTimer()
		client, err := containerd.New(ctrd.Socket)
		if err != nil {
			b.Fatal(err)
		}
		defer client.Close()
		ctx := namespaces.WithNamespace(context.Background(), Namespace)
		img, err := client.GetImage(ctx, probeRef)
		if err != nil {
			b.Fatal(err)
		}
		for i := range b.N {
			b.StartTimer()
			id := fmt.Sprintf("bare-%d", i)
			c, err := client.NewContainer(ctx, id, containerd.WithNewSnapshot(id, img), containerd.WithNewSpec(oci.WithImageConfig(img)))
			if err != nil {
				b.Fatal(err)
			}
			task, err := c.NewTask(ctx, cio.NullIO)
			if err != nil {
				b.Fatal(err)
			}
			if err := task.Start(ctx); err != nil {
				b.Fatal(err)
			}
			b.StopTimer()
			if _, err := task.Delete(ctx, containerd.WithProcessKill); err != nil {
				b.Fatal(err)
			}
			if err := c.Delete(ctx, containerd.WithSnapshotCleanup); err != nil {
				b.Fatal(err)
			}
		}
	})
}
