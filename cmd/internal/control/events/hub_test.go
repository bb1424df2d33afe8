package events

import (
	"log/slog"
	"testing"

	"github.com/redoubt-cluster/redoubt/cmd/internal/control/controlpb"
)

// TestTimesDoNotFall has an event of the store follow one that was stamped by a clock
// ahead of the store's: what is asked for since a time is found all the same.
func TestTimesDoNotFall(t *testing.T) {
	h := New(nil, slog.New(slog.DiscardHandler))
	for _, at := range []int64{10, 90, 20, 30, 100} {
		e := event("node", "wait", "id", "name")
		e.At = at
		h.add([]*controlpb.Event{e})
	}
	if got := h.Since(95); got != 4 {
		t.Errorf("since 95: cursor %d, want that of the last of five", got)
	}
	if got := h.Since(25); got != 1 {
		t.Errorf("since 25: cursor %d, want that of the second of five", got)
	}
}
