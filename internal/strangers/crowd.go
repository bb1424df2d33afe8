package strangers

import (
	"container/list"
	"sync"
)

// Crowd holds connections of strangers, at one stage: those that said nothing
// yet, those that shake hands, those without a certificate. Where a bound is
// reached, a newcomer takes the place of the oldest one of its own source, or of
// the source that has most. What an honest caller does takes a moment, so one
// that was overtaken by so many others is not missed; refusing newcomers would
// let whoever opens connections and waits shut out all who share its address,
// such as the node that a hostile container runs on.
type Crowd struct {
	total, each int

	mu       sync.Mutex
	n        int
	bySource map[string]*list.List // of func(), oldest first
}

// NewCrowd returns a crowd of at most total, and each of one source.
func NewCrowd(total, each int) *Crowd {
	return &Crowd{total: total, each: each, bySource: map[string]*list.List{}}
}

// Take counts one more. evict is called, at most once and without a lock, when
// it has to make room; give returns its place.
func (c *Crowd) Take(source string, evict func()) (give func()) {
	c.mu.Lock()
	victim := c.makeRoom(source)
	mine := c.bySource[source]
	if mine == nil {
		mine = list.New()
		c.bySource[source] = mine
	}
	e := mine.PushBack(evict)
	c.n++
	c.mu.Unlock()
	if victim != nil {
		victim()
	}
	return sync.OnceFunc(func() {
		c.mu.Lock()
		defer c.mu.Unlock()
		c.remove(source, mine, e)
	})
}

// Len is how many are counted.
func (c *Crowd) Len() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.n
}

func (c *Crowd) makeRoom(source string) (victim func()) {
	crowded := source
	switch own := c.bySource[source]; {
	case own != nil && own.Len() >= c.each:
	case c.n >= c.total:
		most := 0
		for s, l := range c.bySource {
			if l.Len() > most {
				crowded, most = s, l.Len()
			}
		}
	default:
		return nil
	}
	l := c.bySource[crowded]
	oldest := l.Front()
	c.remove(crowded, l, oldest)
	return oldest.Value.(func())
}

// remove forgets e, which eviction may have done already.
func (c *Crowd) remove(source string, l *list.List, e *list.Element) {
	before := l.Len()
	l.Remove(e)
	c.n -= before - l.Len()
	if l.Len() == 0 && c.bySource[source] == l {
		delete(c.bySource, source)
	}
}
