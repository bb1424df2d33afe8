package node

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/redoubt-cluster/redoubt/cmd/internal/apiclient"
	"github.com/redoubt-cluster/redoubt/cmd/internal/control/controlpb"
	"github.com/redoubt-cluster/redoubt/secrets/secretspb"
)

// BenchmarkCall is what a call costs outside of the store and of the other
// managers: a manager that leads alone, and clients at its socket, in one
// process. Its processor time is that of both sides.
func BenchmarkCall(b *testing.B) {
	w := newCallerWorld(b)
	data := make([]byte, 1024)
	var conns []*apiclient.Client
	for range 8 {
		c, err := apiclient.Dial(b.Context(), w.local)
		if err != nil {
			b.Fatal(err)
		}
		defer c.Close()
		conns = append(conns, c)
	}
	spec := func(name string) *controlpb.CreateConfigRequest {
		return &controlpb.CreateConfigRequest{Spec: &secretspb.ConfigSpec{Name: name, Data: data}}
	}
	if _, err := conns[0].CreateConfig(b.Context(), spec("one")); err != nil {
		b.Fatal(err)
	}
	var unique atomic.Int64
	for _, c := range []struct {
		name string
		call func(ctx context.Context, c *apiclient.Client) error
	}{
		{"read", func(ctx context.Context, c *apiclient.Client) error {
			r, err := c.GetConfigs(ctx, &controlpb.GetConfigsRequest{Configs: []string{"one"}})
			if err == nil && len(r.GetConfigs()[0].GetSpec().GetData()) != len(data) {
				err = fmt.Errorf("another config: %v", r)
			}
			return err
		}},
		{"write", func(ctx context.Context, c *apiclient.Client) error {
			_, err := c.CreateConfig(ctx, spec(fmt.Sprint("bench-", unique.Add(1))))
			return err
		}},
	} {
		for _, clients := range []int{1, 64} {
			b.Run(fmt.Sprintf("%s/clients=%d", c.name, clients), func(b *testing.B) {
				b.ReportAllocs()
				var left atomic.Int64
				left.Store(int64(b.N))
				var wg sync.WaitGroup
				before := processorTime(b)
				for i := range clients {
					wg.Go(func() {
						for left.Add(-1) >= 0 {
							if err := c.call(b.Context(), conns[i%len(conns)]); err != nil {
								b.Error(err)
								return
							}
						}
					})
				}
				wg.Wait()
				b.ReportMetric(float64((processorTime(b)-before).Microseconds())/float64(b.N), "cpu-µs/op")
			})
		}
	}
}

// processorTime is what this process has used up to now.
func processorTime(b *testing.B) time.Duration {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		b.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}
