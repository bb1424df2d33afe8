package strangers

import (
	"context"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// TestTurns: no more at a time than there are turns, who has begun first, then
// the newest, and who gives up leaves the queue whole.
func TestTurns(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		turns := NewTurns(1)
		if err := turns.Take(t.Context(), New); err != nil {
			t.Fatal(err)
		}
		var got []string
		wait := func(ctx context.Context, name string, queue int) {
			go func() {
				if turns.Take(ctx, queue) == nil {
					got = append(got, name) // the one turn guards it
					turns.Give()
				}
			}()
			synctest.Wait()
		}
		hasty, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		wait(t.Context(), "new 1", New)
		wait(hasty, "gave up", Begun)
		wait(t.Context(), "new 2", New)
		wait(t.Context(), "begun", Begun)
		time.Sleep(2 * time.Second) // of the bubble's time: hasty gives up
		if len(got) > 0 {
			t.Fatalf("%q had turns that there are not", got)
		}
		turns.Give()
		synctest.Wait()
		if want := []string{"begun", "new 2", "new 1"}; !slices.Equal(got, want) {
			t.Errorf("the order was %q, want %q", got, want)
		}
		if turns.free != 1 || turns.queues[0].Len()+turns.queues[1].Len() > 0 {
			t.Errorf("%d turns are free and some are waited for", turns.free)
		}
	})
}

// TestTurnWhileReading: a peer that says nothing holds up nobody.
func TestTurnWhileReading(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		turns := NewTurns(1)
		ours, theirs := net.Pipe()
		silent := NewTurned(t.Context(), ours, turns)
		if err := silent.Begin(New); err != nil {
			t.Fatal(err)
		}
		done := make(chan error, 1)
		go func() {
			b := make([]byte, 5)
			if _, err := io.ReadFull(silent, b); err != nil || string(b) != "hello" {
				done <- fmt.Errorf("read %q: %v", b, err)
				return
			}
			silent.End()
			close(done)
		}()
		synctest.Wait()
		if err := turns.Take(t.Context(), New); err != nil {
			t.Fatal(err)
		}
		if _, err := theirs.Write([]byte("hello")); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		select {
		case <-done:
			t.Error("it went on without a turn")
		default:
		}
		turns.Give()
		if err := <-done; err != nil {
			t.Error(err)
		}
		if turns.free != 1 {
			t.Errorf("%d turns are free after all", turns.free)
		}
		theirs.Close()
	})
}

// TestNoneStarves: strangers that keep coming four times as fast as handshakes
// can be made, each the newest, take turns from who waits, but not for ever: who
// gives up and comes again is the newest itself, and served about once in four
// times. Those that were overtaken leave nothing behind.
func TestNoneStarves(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const cost, waiting = time.Millisecond, 64
		turns, crowd := NewTurns(1), NewCrowd(waiting, waiting)
		r := rand.New(rand.NewPCG(1, 2))
		handshake := func(ctx context.Context) bool {
			ctx, cancel := context.WithCancel(ctx)
			defer cancel()
			defer crowd.Take("", cancel)()
			if turns.Take(ctx, New) != nil {
				return false
			}
			time.Sleep(cost) // of the bubble's time, as all here
			turns.Give()
			return true
		}
		ctx, end := context.WithCancel(t.Context())
		var flood sync.WaitGroup
		flood.Go(func() {
			for ctx.Err() == nil {
				time.Sleep(time.Duration(r.ExpFloat64() * float64(cost) / 4))
				flood.Go(func() { handshake(ctx) })
				turns.mu.Lock()
				n := turns.queues[New].Len()
				turns.mu.Unlock()
				if n > 2*waiting { // those just put out are about to go
					t.Errorf("%d wait", n)
					return
				}
			}
		})
		const attempts = 60
		served := 0
		for range attempts {
			patient, cancel := context.WithTimeout(t.Context(), 4*time.Second)
			if handshake(patient) {
				served++
			}
			cancel()
			time.Sleep(50*time.Millisecond + cost/3)
		}
		end()
		flood.Wait()
		synctest.Wait()
		if served < attempts/12 {
			t.Errorf("%d of %d attempts were served", served, attempts)
		}
		if turns.free != 1 || turns.queues[0].Len()+turns.queues[1].Len() > 0 || crowd.n > 0 {
			t.Errorf("%d turns are free, %d wait, %d are counted", turns.free, turns.queues[New].Len(), crowd.n)
		}
	})
}
