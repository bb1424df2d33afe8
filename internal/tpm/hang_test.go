package tpm

import (
	"context"
	"errors"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

// TestHungDevice: a device that takes a command and does not answer, as no read of a
// character device can be taken back, keeps the first as long as he waits and those
// who come later not at all. Once it answers it is used again.
func TestHungDevice(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := &TPM{turn: make(chan struct{}, 1), closed: make(chan struct{})}
		p.turn <- struct{}{}
		answer := make(chan struct{})
		asks := func(bound time.Duration) (time.Duration, error) {
			ctx, cancel := context.WithTimeout(t.Context(), bound)
			defer cancel()
			begun := time.Now()
			_, err := use(ctx, p, func() (struct{}, error) { <-answer; return struct{}{}, nil })
			return time.Since(begun), err
		}
		for _, want := range []struct {
			bound, waits time.Duration
			says         string
		}{
			{20 * time.Second, 20 * time.Second, "in time"},
			{time.Minute, time.Minute, "in time"}, // begun before it was overdue
			{time.Minute, 0, "it was asked something 1m20s ago"},
			{time.Hour, 0, "it was asked something 1m20s ago"},
		} {
			if took, err := asks(want.bound); took != want.waits || !errors.Is(err, ErrDevice) || !strings.Contains(err.Error(), want.says) {
				t.Errorf("%+v: %v after %v", want, err, took)
			}
		}
		close(answer)
		synctest.Wait()
		if took, err := asks(time.Minute); took != 0 || err != nil {
			t.Errorf("it answers again: %v after %v", err, took)
		}
	})
}
