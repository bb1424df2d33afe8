// Package events turns the changes of the replicated store into what operators
// follow with `redoubt events`: a node went down, a task failed and why, a token
// was used.
//
// A Hub follows the local store of one manager, leader or not, and keeps the
// newest events in memory, so that a new leader can also tell of the time before
// it led. It is a view for people and not a record for auditors: what a restart
// of the daemon, a snapshot or the bound took away is gone, and a reader that
// was too slow is told so. Events carry names, ids, states and the reasons that
// `service ps` shows; nothing of a service's environment, and no key or token.
//
// Run and Waits write. Read may be called by any number of goroutines; each
// holds its own cursor.
package events

import (
	"context"
	"errors"
	"log/slog"
	"sort"
	"sync"

	"google.golang.org/protobuf/proto"

	"github.com/redoubt-cluster/redoubt/cmd/internal/control/controlpb"
	"github.com/redoubt-cluster/redoubt/raftstore"
)

// Store is what the hub needs of *raftstore.Store.
type Store interface {
	View(func(*raftstore.ReadTx) error) error
	Watch(snapshot func(*raftstore.ReadTx) error, tables ...raftstore.Registered) (*raftstore.Watch, error)
}

// Cursor is a place in the stream of events: the number of those before it.
type Cursor uint64

// Hub keeps the newest events.
type Hub struct {
	store Store
	log   *slog.Logger

	mu   sync.Mutex // guards the rest
	ring []kept
	next Cursor        // of the event that comes next; it goes to ring[next%most]
	more chan struct{} // closed, and replaced, when there is more to read
}

// kept is an event encoded: a third of what it takes as it is read.
type kept struct {
	at   int64
	data []byte
}

// New returns a hub without events.
func New(store Store, log *slog.Logger) *Hub {
	return &Hub{store: store, log: log, more: make(chan struct{})}
}

// Run follows the store until ctx ends or the store does.
func (h *Hub) Run(ctx context.Context) error {
	for {
		err := h.follow(ctx)
		if !errors.Is(err, raftstore.ErrLagged) {
			return err
		}
		h.log.InfoContext(ctx, "events were lost: the store changed faster than they were made, or it was replaced by a snapshot")
		h.add([]*controlpb.Event{lost(h.clock())})
	}
}

func (h *Hub) follow(ctx context.Context) error {
	w, err := h.store.Watch(nil, watched()...)
	if err != nil {
		return err
	}
	defer w.Close()
	for {
		changes, err := w.Next(ctx)
		if err != nil {
			return err
		}
		var made []*controlpb.Event
		if err := h.store.View(func(r *raftstore.ReadTx) error {
			made = translate(r, changes)
			return nil
		}); err != nil {
			return err
		}
		h.add(made)
	}
}

func (h *Hub) clock() (now int64) {
	// A closed store ends Run by the watch.
	_ = h.store.View(func(r *raftstore.ReadTx) error {
		now = r.Clock().UnixNano()
		return nil
	})
	return now
}

func (h *Hub) add(made []*controlpb.Event) {
	if len(made) == 0 {
		return
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, e := range made {
		// What is not of the store has its time of this machine's clock, which may be
		// ahead of the store's: Since searches a ring whose times do not fall.
		if last := len(h.ring); last > 0 {
			e.At = max(e.At, h.ring[(h.next-1)%most].at)
		}
		data, err := proto.Marshal(e)
		if err != nil {
			h.log.Error("an event cannot be kept", "type", e.GetType(), "err", err)
			continue
		}
		k := kept{e.GetAt(), data}
		if len(h.ring) < most {
			h.ring = append(h.ring, k)
		} else {
			h.ring[h.next%most] = k
		}
		h.next++
	}
	close(h.more)
	h.more = make(chan struct{})
}

// Now is the cursor of what has not happened yet.
func (h *Hub) Now() Cursor {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.next
}

// Since is the cursor of the oldest event that is kept and not older than at,
// in Unix nanoseconds.
func (h *Hub) Since(at int64) Cursor {
	h.mu.Lock()
	defer h.mu.Unlock()
	first := h.oldest()
	n := sort.Search(len(h.ring), func(i int) bool { return h.at(first+Cursor(i)).at >= at })
	return first + Cursor(n)
}

// oldest and at are called with mu held.
func (h *Hub) oldest() Cursor   { return h.next - Cursor(len(h.ring)) }
func (h *Hub) at(c Cursor) kept { return h.ring[c%most] }

// Read returns a bounded number of events from the cursor on, and the cursor
// after them. With wait it waits until there is one, or ctx ends. Where events
// between were dropped, the first one returned says so.
func (h *Hub) Read(ctx context.Context, c Cursor, wait bool) ([]*controlpb.Event, Cursor, error) {
	for {
		out, next, more := h.read(c)
		if len(out) > 0 || !wait {
			return out, next, nil
		}
		select {
		case <-more:
		case <-ctx.Done():
			return nil, c, ctx.Err()
		}
	}
}

func (h *Hub) read(c Cursor) (out []*controlpb.Event, next Cursor, more <-chan struct{}) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if first := h.oldest(); c < first {
		out, c = append(out, lost(h.at(first).at)), first
	}
	for ; c < h.next && len(out) < maxRead; c++ {
		e := &controlpb.Event{}
		if err := proto.Unmarshal(h.at(c).data, e); err != nil { // Marshal made it
			h.log.Error("an event cannot be read again", "err", err)
			continue
		}
		out = append(out, e)
	}
	return out, c, h.more
}

func lost(at int64) *controlpb.Event {
	return &controlpb.Event{At: at, Type: "cluster", Action: "events-lost"}
}

const (
	// most bounds the events in memory: a few MiB at most.
	most = 8192
	// maxRead bounds one answer.
	maxRead = 256
)
