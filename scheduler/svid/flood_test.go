package svid

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/spiffe/go-spiffe/v2/proto/spiffe/workload"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	"github.com/redoubt-cluster/redoubt/internal/ident"
)

const (
	floodLong     = 3 * time.Second
	floodPatience = 20 * time.Millisecond
)

// Another process floods, so that what is measured here is not its work.
func init() {
	if address := os.Getenv("REDOUBT_SVID_FLOOD"); address != "" {
		made, answered := flood(address)
		fmt.Println(made, answered)
		os.Exit(0)
	}
}

// once asks for a certificate.
func once(ctx context.Context, c workload.SpiffeWorkloadAPIClient) error {
	ctx, cancel := context.WithCancel(secure(ctx))
	defer cancel()
	s, err := c.FetchX509SVID(ctx, &workload.X509SVIDRequest{})
	if err == nil {
		_, err = s.Recv()
	}
	return err
}

// flood calls on as many connections, and as often on each, as a task may at once.
// One caller of each connection waits for its answer; the others give each call up after
// so short a while that waiting does not keep them from ten thousand calls a second,
// where the machine makes as many.
func flood(address string) (made, answered int64) {
	ctx, cancel := context.WithTimeout(context.Background(), floodLong)
	defer cancel()
	var calls sync.WaitGroup
	var n, good atomic.Int64
	for range maxConns {
		conn, err := grpc.NewClient(address, grpc.WithTransportCredentials(insecure.NewCredentials()))
		if err != nil {
			panic(err)
		}
		c := workload.NewSpiffeWorkloadAPIClient(conn)
		for i := range maxCalls {
			patience := floodPatience
			if i == 0 {
				patience = floodLong
			}
			calls.Go(func() {
				for ctx.Err() == nil {
					short, end := context.WithTimeout(ctx, patience)
					if n.Add(1); once(short, c) == nil {
						good.Add(1)
					}
					end()
				}
			})
		}
	}
	calls.Wait()
	return n.Load(), good.Load()
}

// TestFlood: a task that calls as often as it can, up to ten thousand times a second,
// on all the connections that it may have, is answered as often as one task is and no more, and its
// neighbour is answered as ever.
func TestFlood(t *testing.T) {
	w, ctx := newWorld(t, 0), within(t)
	loud, quiet := ident.New(), ident.New()
	w.Set(map[string]Want{loud: {Identity: w.id("web"), Life: time.Hour}, quiet: {Identity: w.id("db"), Life: time.Hour}})
	address := w.socket(loud)
	neighbour := workload.NewSpiffeWorkloadAPIClient(w.raw(t, quiet))
	if err := once(ctx, neighbour); err != nil {
		t.Fatal(err)
	}
	self := exec.Command(os.Args[0])
	self.Env = append(os.Environ(), "REDOUBT_SVID_FLOOD="+address)
	over := make(chan []byte, 1)
	go func() {
		out, err := self.Output()
		if err != nil {
			out = []byte(err.Error())
		}
		over <- out
	}()
	var out []byte
	var asked int
	var worst time.Duration
	for began := time.Now(); out == nil; asked++ {
		at := time.Now()
		if err := once(ctx, neighbour); err != nil {
			t.Fatalf("the neighbour: %v", err)
		}
		worst = max(worst, time.Since(at))
		select {
		case out = <-over:
			t.Logf("after %v", time.Since(began).Round(time.Millisecond))
		case <-time.After(2 * time.Millisecond):
		}
	}
	var made, answered int64
	if _, err := fmt.Sscan(string(out), &made, &answered); err != nil {
		t.Fatalf("%s: %v", out, err)
	}
	t.Logf("%d calls in %v were made of one task, %d answered; of its neighbour %d, the slowest after %v", made, floodLong, answered, asked, worst.Round(time.Millisecond))
	if most := callBurst + callRate*int64(floodLong.Seconds()+1); answered > most || answered == 0 {
		t.Errorf("%d calls were answered, %d are allowed", answered, most)
	}
	if worst > 5*time.Second {
		t.Errorf("the neighbour waited %v", worst)
	}
}

// A task has only so many connections, and others when those are closed.
func TestConnections(t *testing.T) {
	w, ctx := newWorld(t, 0), within(t)
	task := ident.New()
	w.Set(map[string]Want{task: {Identity: w.id("web"), Life: time.Hour}})
	address := w.socket(task)
	var first *grpc.ClientConn
	for range maxConns {
		c := w.dial(t, address)
		if err := once(ctx, workload.NewSpiffeWorkloadAPIClient(c)); err != nil {
			t.Fatal(err)
		}
		first = c
	}
	more := workload.NewSpiffeWorkloadAPIClient(w.dial(t, address))
	if err := once(ctx, more); err == nil {
		t.Errorf("a task has more than %d connections", maxConns)
	}
	first.Close()
	for once(ctx, workload.NewSpiffeWorkloadAPIClient(w.dial(t, address))) != nil {
		if ctx.Err() != nil {
			t.Fatal("no connection after one was closed")
		}
	}
}
