package callstream

import (
	"context"
	"runtime"
	"sync"
	"time"
)

// outbox lets many send over one stream: whoever has something to send sends for
// all who come along meanwhile.
type outbox[T any] struct {
	mu      sync.Mutex // guards the rest, and what the owner says
	items   []T        // to be sent
	spare   []T        // room for the next items
	sending bool       // somebody sends, and looks again when done
	more    bool       // there was something since they last looked
}

// flushLocked sends the items with send, which gets no items where the owner alone
// has something, and keeps none. mu is held; it is let go of and taken again.
func (o *outbox[T]) flushLocked(send func([]T)) {
	o.more = true
	if o.sending {
		return
	}
	o.sending = true
	for o.more {
		o.mu.Unlock()
		// Whoever is ready to run has mostly something to send as well: an answer
		// wakes its caller, and a confirmed leader every reader.
		runtime.Gosched()
		o.mu.Lock()
		o.more = false
		items := o.items
		o.items = o.spare[:0]
		o.mu.Unlock()
		send(items)
		clear(items)
		o.mu.Lock()
		o.spare = items
	}
	o.sending = false
}

// timeLeft is how long ctx has, in nanoseconds; 0: for ever.
func timeLeft(ctx context.Context) int64 {
	end, ok := ctx.Deadline()
	if !ok {
		return 0
	}
	return max(int64(time.Until(end)), 1)
}
