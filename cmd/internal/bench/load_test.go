package main

import (
	"bytes"
	"context"
	"errors"
	"os"
	"path/filepath"
	"testing"
	"testing/synctest"
	"time"
)

// The runners of peers are modules of their own and can share no package with
// this one, so the code that measures is copied. A difference would make the
// comparison worthless.
func TestRunnersMeasureAlike(t *testing.T) {
	bench := filepath.Join("..", "..", "..", "bench")
	for _, same := range [][]string{
		{"load.go", filepath.Join(bench, "etcd", "load.go"), filepath.Join(bench, "swarmkit", "load.go")},
		{filepath.Join(bench, "etcd", "process.go"), filepath.Join(bench, "swarmkit", "process.go")},
	} {
		want, err := os.ReadFile(same[0])
		if err != nil {
			t.Fatal(err)
		}
		for _, other := range same[1:] {
			got, err := os.ReadFile(other)
			if err != nil {
				t.Fatal(err)
			}
			if !bytes.Equal(want, got) {
				t.Errorf("%s differs from %s: copy it", other, same[0])
			}
		}
	}
}

func TestLoadCountsTheWindow(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l, err := load(t.Context(), 4, 10*time.Second, func(context.Context, int, int) error {
			time.Sleep(100 * time.Millisecond)
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
		// 4 clients, 10 calls a second each; the calls on the window's edges may
		// fall out.
		if n := len(l.sorted); n < 390 || n > 400 {
			t.Errorf("%d calls counted", n)
		}
		if l.at(0.5) != 100*time.Millisecond || l.at(0.99) != 100*time.Millisecond {
			t.Errorf("%v", l)
		}
	})
}

func TestLoadFailsWithACall(t *testing.T) {
	broken := errors.New("broken")
	synctest.Test(t, func(t *testing.T) {
		_, err := load(t.Context(), 2, time.Second, func(_ context.Context, client, n int) error {
			if client == 1 && n == 3 {
				return broken
			}
			time.Sleep(time.Millisecond)
			return nil
		})
		if !errors.Is(err, broken) {
			t.Errorf("got %v", err)
		}
	})
}

func TestFirstSuccess(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		start := time.Now()
		err := firstSuccess(t.Context(), 2, func(ctx context.Context, server, _ int) error {
			if server == 1 && time.Since(start) > time.Second {
				return nil
			}
			<-ctx.Done()
			return ctx.Err()
		})
		if took := time.Since(start); err != nil || took < time.Second || took > 2100*time.Millisecond {
			t.Errorf("%v after %v", err, took)
		}
	})
}
