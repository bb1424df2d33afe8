package svid

import (
	"context"
	"sync"
	"testing"
	"time"

	"github.com/spiffe/go-spiffe/v2/proto/spiffe/workload"
	"github.com/spiffe/go-spiffe/v2/svid/x509svid"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"github.com/redoubt-cluster/redoubt/internal/ident"
)

// While managers are away what there is goes on being handed out; a call without
// the header, or for a task that is not there, is refused.
func TestAwayAndStrangers(t *testing.T) {
	w, ctx := newWorld(t, 0), within(t)
	task, stranger := ident.New(), ident.New()
	w.Set(map[string]Want{task: {Identity: w.id("web"), Life: time.Hour}})
	c := w.raw(t, task)
	fetch := func(ctx context.Context) error {
		s, err := workload.NewSpiffeWorkloadAPIClient(c).FetchX509SVID(ctx, &workload.X509SVIDRequest{})
		if err == nil {
			_, err = s.Recv()
		}
		return err
	}
	if err := fetch(secure(ctx)); err != nil {
		t.Fatal(err)
	}
	w.set(func() { w.away = true })
	w.Connected()
	if err := fetch(secure(ctx)); err != nil {
		t.Errorf("while managers are away: %v", err)
	}
	for _, v := range []string{"", "false", "TRUE"} {
		if err := fetch(metadata.AppendToOutgoingContext(ctx, header, v)); status.Code(err) != codes.InvalidArgument {
			t.Errorf("with header %q: %v", v, err)
		}
	}
	if err := fetch(ctx); status.Code(err) != codes.InvalidArgument {
		t.Errorf("without the header: %v", err)
	}
	if _, err := workload.NewSpiffeWorkloadAPIClient(w.raw(t, stranger)).FetchJWTSVID(secure(ctx), &workload.JWTSVIDRequest{Audience: []string{"x"}}); err == nil {
		t.Error("a task that is not there was answered")
	}
	w.Set(nil)
	if err := fetch(secure(ctx)); status.Code(err) != codes.PermissionDenied {
		t.Errorf("a task that is gone: %v", err)
	}
}

func secure(ctx context.Context) context.Context {
	return metadata.AppendToOutgoingContext(ctx, header, "true")
}

func (w *world) raw(t testing.TB, task string) *grpc.ClientConn { return w.dial(t, w.socket(task)) }

func (w *world) dial(t testing.TB, address string) *grpc.ClientConn {
	c, err := grpc.NewClient(address, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

// BenchmarkFetch is a node's rate of first answers, of eight tasks.
func BenchmarkFetch(b *testing.B) {
	w := newWorld(b, 0)
	want := map[string]Want{}
	var clients []workload.SpiffeWorkloadAPIClient
	for range 8 {
		id := ident.New()
		want[id] = Want{Identity: w.id("web"), Life: time.Hour}
		clients = append(clients, workload.NewSpiffeWorkloadAPIClient(w.raw(b, id)))
	}
	w.Set(want)
	fetch := func(c workload.SpiffeWorkloadAPIClient) {
		ctx, cancel := context.WithCancel(secure(context.Background()))
		defer cancel()
		s, err := c.FetchX509SVID(ctx, &workload.X509SVIDRequest{})
		if err == nil {
			var r *workload.X509SVIDResponse
			if r, err = s.Recv(); err == nil {
				_, err = x509svid.ParseRaw(r.Svids[0].X509Svid, r.Svids[0].X509SvidKey)
			}
		}
		if err != nil {
			b.Error(err)
		}
	}
	for _, c := range clients {
		fetch(c)
	}
	b.ResetTimer()
	var wg sync.WaitGroup
	for i, c := range clients {
		wg.Go(func() {
			for n := i; n < b.N; n += len(clients) {
				fetch(c)
			}
		})
	}
	wg.Wait()
}
