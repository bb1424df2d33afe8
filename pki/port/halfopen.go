package port

import (
	"container/list"
	"sync"
)

// halfOpen holds connections whose peer is not known yet, at one stage of that. Where a bound is
// reached, a newcomer takes the place of the oldest one of its own source, or
// of the source that has most. An honest handshake takes milliseconds, so one
// that was overtaken by so many others is not missed; refusing newcomers would
// let whoever opens connections and says nothing shut out all who share its
// address, such as the node that a hostile container runs on.
type halfOpen struct {
	total, each int

	mu       sync.Mutex
	n        int
	bySource map[string]*list.List // of func(), oldest first
}

func newHalfOpen(l Limits) *halfOpen {
	return &halfOpen{total: l.HalfOpen, each: l.HalfOpenPerSource, bySource: map[string]*list.List{}}
}

// take counts one more. evict is called, at most once and without a lock, when
// it has to make room; give returns its place.
func (h *halfOpen) take(source string, evict func()) (give func()) {
	h.mu.Lock()
	victim := h.makeRoom(source)
	mine := h.bySource[source]
	if mine == nil {
		mine = list.New()
		h.bySource[source] = mine
	}
	e := mine.PushBack(evict)
	h.n++
	h.mu.Unlock()
	if victim != nil {
		victim()
	}
	return sync.OnceFunc(func() {
		h.mu.Lock()
		defer h.mu.Unlock()
		h.remove(source, mine, e)
	})
}

func (h *halfOpen) makeRoom(source string) (victim func()) {
	crowded := source
	switch own := h.bySource[source]; {
	case own != nil && own.Len() >= h.each:
	case h.n >= h.total:
		most := 0
		for s, l := range h.bySource {
			if l.Len() > most {
				crowded, most = s, l.Len()
			}
		}
	default:
		return nil
	}
	l := h.bySource[crowded]
	oldest := l.Front()
	h.remove(crowded, l, oldest)
	return oldest.Value.(func())
}

// remove forgets e, which eviction may have done already.
func (h *halfOpen) remove(source string, l *list.List, e *list.Element) {
	before := l.Len()
	l.Remove(e)
	h.n -= before - l.Len()
	if l.Len() == 0 && h.bySource[source] == l {
		delete(h.bySource, source)
	}
}
