package node

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/connectivity"

	"github.com/redoubt-cluster/redoubt/pki/port"
)

// fakeLeader is a connection of which only the state matters.
type fakeLeader struct {
	grpc.ClientConnInterface
	closed bool
}

func (f *fakeLeader) Close() error { f.closed = true; return nil }

func (f *fakeLeader) GetState() connectivity.State {
	if f.closed {
		return connectivity.Idle
	}
	return connectivity.Ready
}

// A handshake that takes longer than any caller waits is still made, once.
func TestLeaderLinkOutlastsItsCallers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		dials := 0
		l := &leaderLink{dial: func(ctx context.Context, _ port.Leader) (leaderClient, error) {
			dials++
			select {
			case <-time.After(time.Second):
				return &fakeLeader{}, nil
			case <-ctx.Done():
				return nil, ctx.Err()
			}
		}}
		defer l.close()
		to := port.Leader{NodeID: "a", Address: "a:1"}
		for range 9 {
			ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
			if _, err := l.get(ctx, to, nil); !errors.Is(err, context.DeadlineExceeded) {
				t.Fatalf("a caller without patience got %v", err)
			}
			cancel()
		}
		start := time.Now()
		if _, err := l.get(t.Context(), to, nil); err != nil || time.Since(start) > 100*time.Millisecond {
			t.Fatalf("%v after %v", err, time.Since(start))
		}
		if _, err := l.get(t.Context(), to, nil); err != nil || dials != 1 {
			t.Fatalf("%v; %d handshakes were made", err, dials)
		}
	})
}

func TestLeaderLinkFollowsTheLeader(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		made := map[string]*fakeLeader{}
		l := &leaderLink{dial: func(ctx context.Context, to port.Leader) (leaderClient, error) {
			if to.NodeID == "silent" {
				<-ctx.Done()
				return nil, ctx.Err()
			}
			made[to.NodeID] = &fakeLeader{}
			return made[to.NodeID], nil
		}}
		defer l.close()
		a, b, silent := port.Leader{NodeID: "a"}, port.Leader{NodeID: "b"}, port.Leader{NodeID: "silent"}
		if _, err := l.get(t.Context(), a, nil); err != nil {
			t.Fatal(err)
		}
		changed := make(chan struct{})
		time.AfterFunc(time.Millisecond, func() { close(changed) })
		start := time.Now()
		if _, err := l.get(t.Context(), silent, changed); err == nil || time.Since(start) != time.Millisecond {
			t.Fatalf("a caller waited %v for a leader that is one no more: %v", time.Since(start), err)
		}
		c, err := l.get(t.Context(), b, nil)
		if err != nil || c != leaderClient(made["b"]) || !made["a"].closed {
			t.Fatalf("%v, %v; the former leader's is closed: %v", c, err, made["a"].closed)
		}
		// Who heard of a leader before the rest did goes on with it.
		if l.follow(b); made["b"].closed {
			t.Fatal("the connection with the new leader was ended")
		}
		if l.follow(a); !made["b"].closed {
			t.Fatal("the connection is still open")
		}
		before := made["b"]
		if c, err = l.get(t.Context(), b, nil); err != nil || c == leaderClient(before) {
			t.Fatalf("%v, %v", c, err)
		}
		// Nothing is left behind by a link that ends during a handshake.
		waited := make(chan error, 1)
		go func() {
			_, err := l.get(t.Context(), silent, nil)
			waited <- err
		}()
		synctest.Wait()
		l.close()
		if err := <-waited; err == nil || !made["b"].closed {
			t.Fatalf("%v; closed: %v", err, made["b"].closed)
		}
		if _, err := l.get(t.Context(), b, nil); !errors.Is(err, errLinkClosed) {
			t.Fatal(err)
		}
	})
}
