// Package heap keeps a daemon's memory near what it uses. The collector's own
// rule is a proportion: with twice what is alive, a manager of ten thousand tasks
// occupies as much again for nothing, and one that has just started collects
// every few MiB. The rule here is a share of what is alive and never less than a
// fixed room:
//
//	alive     room before the next collection
//	   8 MiB  16 MiB   (GOGC 200)
//	  32 MiB  16 MiB   (GOGC 50)
//	 320 MiB 160 MiB   (GOGC 50)
//
// It is applied after each collection, so that it follows a burst within the
// burst. Who is busy for longer than busyAfter gets as much room as it fills in
// busySpan, up to maxBusyRoom, all of it after as long again: a manager that takes thousands of writes a second would otherwise
// spend a third of its time marking what has not changed since the collection a
// moment before. And when a burst is over, what it left behind goes back to the
// kernel: a machine carries more than one daemon.
//
// The package owns the collector's settings of its process: nothing else may set
// them. A GOGC or GOMEMLIMIT of the environment, which an operator sets on
// purpose, is left alone, and then nothing here is done.
package heap

import (
	"context"
	"math"
	"os"
	"runtime"
	"runtime/debug"
	"runtime/metrics"
	"time"
)

// Keep applies the rule until ctx ends, which it returns.
func Keep(ctx context.Context) error {
	for _, name := range []string{"GOGC", "GOMEMLIMIT"} {
		if os.Getenv(name) != "" {
			<-ctx.Done()
			return ctx.Err()
		}
	}
	collected := make(chan struct{}, 1)
	defer sentinel(collected)()
	tick := time.NewTicker(settleEvery)
	defer tick.Stop()
	var k keeper
	percent := 0
	for {
		u := read()
		if p := k.percent(u); p != percent {
			debug.SetGCPercent(p)
			percent = p
		}
		select {
		case <-collected:
		case <-tick.C:
			if k.settle(read()) {
				debug.FreeOSMemory()
			}
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// usage is what the runtime says, in bytes.
type usage struct {
	live    uint64 // found alive by the last collection
	alloced uint64 // since the process began
	at      time.Time
}

// keeper decides; it touches nothing.
type keeper struct {
	last            int
	looked, settled uint64 // alloced at the last look, and when it last settled
	paced           usage  // when the pace was last looked at
	pace            float64
	since           time.Time // of when it is one of work
}

// percent is the GOGC that gives what is alive its room. It comes in steps, as
// every change of it stops the world for a moment.
func (k *keeper) percent(u usage) int {
	if u.live == 0 {
		return maxPercent // nothing was collected yet
	}
	room := max(u.live*minPercent/100, minRoom, k.busy(u))
	p := int(math.Round(float64(room)/float64(u.live)*100/step)) * step
	p = min(max(p, minPercent), maxPercent)
	if d := p - k.last; d > step || d < -step || k.last == 0 {
		k.last = p
	}
	return k.last
}

// busy is the room for what is allocated in busySpan at the pace of the last
// paceMemory or so, of which what is longer ago counts less. Work that is over
// within busyAfter gets none: ten thousand tasks that start are no more than that.
func (k *keeper) busy(u usage) uint64 {
	past := u.at.Sub(k.paced.at).Seconds()
	if k.paced.at.IsZero() || past <= 0 {
		k.paced, k.since = u, u.at
		return 0
	}
	now := float64(u.alloced-k.paced.alloced) / past
	k.pace += (now - k.pace) * (1 - math.Exp(-past/paceMemory.Seconds()))
	k.paced = u
	if k.pace < busyPace {
		k.since = u.at
	}
	lasted := u.at.Sub(k.since) - busyAfter
	share := min(max(lasted.Seconds()/busyAfter.Seconds(), 0), 1)
	return uint64(share * min(k.pace*busySpan.Seconds(), maxBusyRoom))
}

// settle reports whether little was allocated since it was last asked, and
// enough since it last said yes that it is worth a collection.
func (k *keeper) settle(u usage) bool {
	quiet := u.alloced-k.looked < quietBytes
	k.looked = u.alloced
	if !quiet || u.alloced-k.settled < max(minIdle, u.live/4) {
		return false
	}
	k.settled = u.alloced
	return true
}

func read() usage {
	s := []metrics.Sample{{Name: "/gc/heap/live:bytes"}, {Name: "/gc/heap/allocs:bytes"}}
	metrics.Read(s)
	return usage{live: s[0].Value.Uint64(), alloced: s[1].Value.Uint64(), at: time.Now()}
}

// sentinel signals after each collection until the returned function is called.
func sentinel(collected chan<- struct{}) (stop func()) {
	done := make(chan struct{})
	type object struct{ _ [16]byte } // pointers it has none, and a size of its own
	var again func(*object)
	again = func(o *object) {
		select {
		case <-done:
			return
		default:
		}
		select {
		case collected <- struct{}{}:
		default:
		}
		runtime.SetFinalizer(o, again)
	}
	runtime.SetFinalizer(&object{}, again)
	return func() { close(done) }
}
