package node

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"

	"google.golang.org/grpc"

	"github.com/redoubt-cluster/redoubt/cmd/internal/control/controlpb"
	"github.com/redoubt-cluster/redoubt/pki/authz"
	"github.com/redoubt-cluster/redoubt/pki/authz/authzpb"
	"github.com/redoubt-cluster/redoubt/secrets/secretspb"
)

// BenchmarkJudged is what authorisation and the audit log add to a call: the
// handler alone, and behind all that judges and records it, on a manager that leads
// alone, which syncs its disk and has no network to wait for: the share of what is
// added is the largest there is.
//
//	go test -run NONE -bench Judged -count 5 ./cmd/internal/node
func BenchmarkJudged(b *testing.B) {
	w := newCallerWorld(b)
	for w.m.direct.Load() == nil {
		<-w.m.serving
	}
	d := w.m.direct.Load()
	var unique atomic.Int64
	data := make([]byte, 1024)
	write := func(ctx context.Context, req any) (any, error) {
		return d.api.CreateConfig(ctx, req.(*controlpb.CreateConfigRequest))
	}
	read := func(ctx context.Context, req any) (any, error) {
		return d.api.ListNodes(ctx, req.(*controlpb.ListNodesRequest))
	}
	newWrite := func() any {
		return &controlpb.CreateConfigRequest{Spec: &secretspb.ConfigSpec{Name: fmt.Sprint("bench-", unique.Add(1)), Data: data}}
	}
	newRead := func() any { return &controlpb.ListNodesRequest{} }
	judged := func(method string, handler grpc.UnaryHandler) grpc.UnaryHandler {
		return func(ctx context.Context, req any) (any, error) {
			ctx, err := d.az.Carry(ctx, method, w.m.creds.Peer())
			if err != nil {
				return nil, err
			}
			if ctx, err = d.az.Judged(ctx, method, req); err != nil {
				return nil, err
			}
			return d.records.Unary(ctx, req, &grpc.UnaryServerInfo{FullMethod: method}, handler)
		}
	}
	for _, c := range []struct {
		name    string
		clients int
		request func() any
		handler grpc.UnaryHandler
	}{
		{"write/alone", 64, newWrite, write},
		{"write/judged and recorded", 64, newWrite, judged("/redoubt.control.v1.Control/CreateConfig", write)},
		{"read/alone", 1, newRead, read},
		{"read/judged", 1, newRead, judged("/redoubt.control.v1.Control/ListNodes", read)},
	} {
		b.Run(c.name, func(b *testing.B) {
			ctx := authz.NewContext(b.Context(), authz.Identity{LocalRoot: true}, authzpb.Caller_CALLER_MANAGER_LOCAL_ROOT)
			var left atomic.Int64
			left.Store(int64(b.N))
			var wg sync.WaitGroup
			before := processorTime(b)
			for range c.clients {
				wg.Go(func() {
					for left.Add(-1) >= 0 {
						if _, err := c.handler(ctx, c.request()); err != nil {
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
