package port

import (
	"context"
	"fmt"
	"io"
	"net"
	"slices"
	"testing"
	"testing/synctest"
	"time"
)

// TestTurns: no more at a time than there are turns, who has begun first, then
// the newest, and who gives up leaves the queue whole.
func TestTurns(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		turns := newTurns(1)
		if err := turns.take(t.Context(), queueNew); err != nil {
			t.Fatal(err)
		}
		var got []string
		wait := func(ctx context.Context, name string, queue int) {
			go func() {
				if turns.take(ctx, queue) == nil {
					got = append(got, name) // the one turn guards it
					turns.give()
				}
			}()
			synctest.Wait()
		}
		hasty, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		wait(t.Context(), "new 1", queueNew)
		wait(hasty, "gave up", queueBegun)
		wait(t.Context(), "new 2", queueNew)
		wait(t.Context(), "begun", queueBegun)
		time.Sleep(2 * time.Second) // of the bubble's time: hasty gives up
		if len(got) > 0 {
			t.Fatalf("%q had turns that there are not", got)
		}
		turns.give()
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
		turns := newTurns(1)
		ours, theirs := net.Pipe()
		silent := &turned{Conn: ours, ctx: t.Context(), turns: turns}
		if err := silent.begin(queueNew); err != nil {
			t.Fatal(err)
		}
		done := make(chan error, 1)
		go func() {
			b := make([]byte, 5)
			if _, err := io.ReadFull(silent, b); err != nil || string(b) != "hello" {
				done <- fmt.Errorf("read %q: %v", b, err)
				return
			}
			silent.end()
			close(done)
		}()
		synctest.Wait()
		if err := turns.take(t.Context(), queueNew); err != nil {
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
		turns.give()
		if err := <-done; err != nil {
			t.Error(err)
		}
		if turns.free != 1 {
			t.Errorf("%d turns are free after all", turns.free)
		}
		theirs.Close()
	})
}
