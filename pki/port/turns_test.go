package port

import (
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/redoubt-cluster/redoubt/pki"
	"github.com/redoubt-cluster/redoubt/pki/pkitest"
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

// TestNoneStarves: strangers that keep coming four times as fast as handshakes
// can be made, each the newest, take turns from who waits, but not for ever: who
// gives up and comes again is the newest itself, and served about once in four
// times. Those that were overtaken leave nothing behind.
func TestNoneStarves(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const cost, waiting = time.Millisecond, 64
		turns, crowd := newTurns(1), newCrowd(waiting, waiting)
		r := rand.New(rand.NewPCG(1, 2))
		handshake := func(ctx context.Context) bool {
			ctx, cancel := context.WithCancel(ctx)
			defer cancel()
			defer crowd.take("", cancel)()
			if turns.take(ctx, queueNew) != nil {
				return false
			}
			time.Sleep(cost) // of the bubble's time, as all here
			turns.give()
			return true
		}
		ctx, end := context.WithCancel(t.Context())
		var flood sync.WaitGroup
		flood.Go(func() {
			for ctx.Err() == nil {
				time.Sleep(time.Duration(r.ExpFloat64() * float64(cost) / 4))
				flood.Go(func() { handshake(ctx) })
				turns.mu.Lock()
				n := turns.queues[queueNew].Len()
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
			patient, cancel := context.WithTimeout(t.Context(), busyDelay)
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
			t.Errorf("%d turns are free, %d wait, %d are counted", turns.free, turns.queues[queueNew].Len(), crowd.n)
		}
	})
}

// TestWaitingEnds: who is overtaken until its time is over is let go, and does not
// wait on for a turn with a connection that nobody holds any more; at the leader
// and at a follower.
func TestWaitingEnds(t *testing.T) {
	ca := pkitest.New(t)
	lead, follower := newHost(t, ca, Limits{Handshake: time.Second}), newHost(t, ca, Limits{Handshake: time.Second})
	follower.follow(lead)
	for _, c := range []struct {
		name  string
		host  *host
		turns *turns
	}{{"leader", lead, lead.turns}, {"follower", follower, follower.carrying}} {
		taken := 0
		for ; c.turns.free > 0; taken++ { // nobody else uses them yet
			if err := c.turns.take(t.Context(), queueNew); err != nil {
				t.Fatal(err)
			}
		}
		conn, err := net.Dial("tcp", c.host.addr)
		if err != nil {
			t.Fatal(err)
		}
		conn.SetDeadline(time.Now().Add(patience))
		if err := tls.Client(conn, ca.NewNode(t, worker).ClientConfig(pki.ALPNGRPC, "")).HandshakeContext(t.Context()); err == nil {
			t.Errorf("%s: a handshake was made without a turn", c.name)
		}
		conn.Close()
		eventually(t, func() bool {
			c.host.half.mu.Lock()
			defer c.host.half.mu.Unlock()
			c.turns.mu.Lock()
			defer c.turns.mu.Unlock()
			return c.host.half.n == 0 && c.turns.queues[queueNew].Len() == 0
		})
		for range taken {
			c.turns.give()
		}
	}
}
