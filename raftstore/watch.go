package raftstore

import (
	"context"
	"sync"
)

// Event is one change of one object. Table.Event says what it was.
type Event struct {
	// Index is the log index of the entry that made the change.
	Index    uint64
	table    Registered
	old, new Object
}

// Watch is a bounded queue of events. One goroutine may call Next.
type Watch struct {
	hub    *hub
	tables map[string]bool
	ready  chan struct{} // capacity 1: something to look at

	mu     sync.Mutex // guards the rest; never held while waiting
	events []Event
	err    error // set once: ErrLagged, ErrClosed or why the store halted
}

// Next waits for events and returns all that are queued, in the order in which
// they were applied; changes of one log entry are never split. After ErrLagged
// the watch is over and the caller starts again from a fresh snapshot.
func (w *Watch) Next(ctx context.Context) ([]Event, error) {
	for {
		w.mu.Lock()
		events, err := w.events, w.err
		w.events = nil
		w.mu.Unlock()
		if err != nil {
			return nil, err
		}
		if len(events) > 0 {
			return events, nil
		}
		select {
		case <-w.ready:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}

// Close ends the watch.
func (w *Watch) Close() {
	w.hub.remove(w)
	w.fail(ErrClosed)
}

func (w *Watch) fail(err error) {
	w.mu.Lock()
	if w.err == nil {
		w.err, w.events = err, nil
	}
	w.mu.Unlock()
	w.wake()
}

// offer queues what concerns this watch and reports whether it goes on.
func (w *Watch) offer(events []Event) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.err != nil {
		return false
	}
	n := len(w.events)
	for _, e := range events {
		if w.tables[e.table.Name()] {
			w.events = append(w.events, e)
		}
	}
	if len(w.events) > maxWatchEvents {
		w.err, w.events = ErrLagged, nil
	} else if len(w.events) == n {
		return true
	}
	w.wake()
	return w.err == nil
}

func (w *Watch) wake() {
	select {
	case w.ready <- struct{}{}:
	default:
	}
}

// hub hands events to the watches. Publishing never waits for a consumer.
type hub struct {
	mu      sync.Mutex // guards watches and err
	watches map[*Watch]struct{}
	err     error
}

func newHub() *hub { return &hub{watches: map[*Watch]struct{}{}} }

func (h *hub) add(tables []Registered) (*Watch, error) {
	w := &Watch{hub: h, tables: map[string]bool{}, ready: make(chan struct{}, 1)}
	for _, t := range tables {
		w.tables[t.Name()] = true
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.err != nil {
		return nil, h.err
	}
	h.watches[w] = struct{}{}
	return w, nil
}

func (h *hub) remove(w *Watch) {
	h.mu.Lock()
	defer h.mu.Unlock()
	delete(h.watches, w)
}

func (h *hub) publish(events []Event) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for w := range h.watches {
		if !w.offer(events) {
			delete(h.watches, w)
		}
	}
}

// reset tells every watch that the state was replaced.
func (h *hub) reset() { h.end(ErrLagged, false) }

// end finishes every watch; with final set, later ones are refused as well.
func (h *hub) end(err error, final bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for w := range h.watches {
		w.fail(err)
	}
	clear(h.watches)
	if final && h.err == nil {
		h.err = err
	}
}
