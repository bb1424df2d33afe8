package raftstore

import (
	"sync"

	"github.com/hashicorp/raft"
)

// recentLog keeps the newest entries of a log in memory, in clear, for followers
// that are a little behind. What raft has for this counts entries, and one of
// ours may have a MiB.
type recentLog struct {
	raft.LogStore
	maxEntries, maxBytes int

	mu      sync.RWMutex // guards the rest; never held during I/O
	entries []*raft.Log  // successive
	bytes   int
}

func newRecentLog(under raft.LogStore, maxEntries, maxBytes int) *recentLog {
	return &recentLog{LogStore: under, maxEntries: maxEntries, maxBytes: maxBytes}
}

// IsMonotonic implements raft.MonotonicLogStore.
func (c *recentLog) IsMonotonic() bool {
	m, ok := c.LogStore.(raft.MonotonicLogStore)
	return ok && m.IsMonotonic()
}

// GetLog implements raft.LogStore.
func (c *recentLog) GetLog(index uint64, out *raft.Log) error {
	c.mu.RLock()
	if n := len(c.entries); n > 0 && index >= c.entries[0].Index && index-c.entries[0].Index < uint64(n) {
		*out = *c.entries[index-c.entries[0].Index]
		c.mu.RUnlock()
		return nil
	}
	c.mu.RUnlock()
	return c.LogStore.GetLog(index, out)
}

// StoreLog implements raft.LogStore.
func (c *recentLog) StoreLog(log *raft.Log) error { return c.StoreLogs([]*raft.Log{log}) }

// StoreLogs implements raft.LogStore.
func (c *recentLog) StoreLogs(logs []*raft.Log) error {
	if err := c.LogStore.StoreLogs(logs); err != nil {
		c.forget() // what is on disk is not known
		return err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, l := range logs {
		if n := len(c.entries); n > 0 && l.Index != c.entries[n-1].Index+1 {
			c.entries, c.bytes = nil, 0
		}
		c.entries = append(c.entries, l)
		c.bytes += len(l.Data)
	}
	drop := 0
	for c.bytes > c.maxBytes || len(c.entries)-drop > c.maxEntries {
		c.bytes -= len(c.entries[drop].Data)
		c.entries[drop] = nil // the array behind the slice lives on for a while
		drop++
	}
	c.entries = c.entries[drop:]
	return nil
}

// DeleteRange implements raft.LogStore.
func (c *recentLog) DeleteRange(first, last uint64) error {
	c.forget()
	return c.LogStore.DeleteRange(first, last)
}

func (c *recentLog) forget() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.entries, c.bytes = nil, 0
}
