package strangers

import (
	"errors"
	"fmt"
	"testing"
	"testing/synctest"
	"time"
)

// TestPace: a burst at once, then the rate, then a refusal; and a table of
// sources that is full still lets a newcomer in at the shared rate.
func TestPace(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := NewPace(5, 100*time.Millisecond, time.Second, 4)
		start := time.Now()
		for range 5 {
			if err := p.Wait(t.Context(), "a"); err != nil {
				t.Fatal(err)
			}
		}
		if took := time.Since(start); took != 0 {
			t.Errorf("the burst took %v", took)
		}
		for i := range 10 {
			if d, ok := p.reserve("a", time.Now()); !ok || d != time.Duration(i+1)*100*time.Millisecond {
				t.Errorf("number %d waits %v, %t", i, d, ok)
			}
		}
		if err := p.Wait(t.Context(), "a"); !errors.Is(err, ErrPaced) {
			t.Errorf("past its patience: %v", err)
		}
		if err := p.Wait(t.Context(), "b"); err != nil || time.Since(start) != 0 {
			t.Errorf("another source waits: %v", err)
		}
		time.Sleep(1500 * time.Millisecond) // of the bubble's clock
		if d, ok := p.reserve("a", time.Now()); !ok || d != 0 {
			t.Errorf("after the flood: %v, %t", d, ok)
		}
		for i := range 100 {
			p.reserve(fmt.Sprint("source ", i), time.Now())
		}
		if len(p.full) > p.max+1 {
			t.Errorf("%d sources are remembered", len(p.full))
		}
		time.Sleep(time.Minute)
		if d, ok := p.reserve("a newcomer", time.Now()); !ok || d != 0 {
			t.Errorf("a newcomer after the flood: %v, %t", d, ok)
		}
	})
}
