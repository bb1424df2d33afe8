package port

import "sync"

// counts are the bounded resources. Each take is followed by one give.
type counts struct {
	limits Limits

	mu sync.Mutex // guards used
	// used counts by class and, within a class, by source or node; the empty
	// key is the whole class.
	used map[countKey]int
}

type class int

const (
	classConnection class = iota
	classSplice
	classNode
)

type countKey struct {
	class class
	key   string
}

func newCounts(l Limits) *counts { return &counts{limits: l, used: map[countKey]int{}} }

// take counts one more of the class for key, or returns false where a bound is
// reached. The returned function gives it back.
func (c *counts) take(cl class, key string) (give func(), ok bool) {
	total, each := c.bounds(cl)
	c.mu.Lock()
	defer c.mu.Unlock()
	all, one := countKey{cl, ""}, countKey{cl, key}
	if total > 0 && c.used[all] >= total || key != "" && each > 0 && c.used[one] >= each {
		return nil, false
	}
	c.used[all]++
	if key != "" {
		c.used[one]++
	}
	return sync.OnceFunc(func() {
		c.mu.Lock()
		defer c.mu.Unlock()
		c.drop(all)
		if key != "" {
			c.drop(one)
		}
	}), true
}

func (c *counts) drop(k countKey) {
	if c.used[k]--; c.used[k] == 0 {
		delete(c.used, k)
	}
}

// bounds returns the bound of the whole class and of one key; 0 is none.
func (c *counts) bounds(cl class) (total, each int) {
	l := c.limits
	switch cl {
	case classConnection:
		return l.Connections, 0
	case classSplice:
		return 0, l.SplicesPerSource
	}
	return 0, l.PerNode
}
