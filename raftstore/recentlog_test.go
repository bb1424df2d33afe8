package raftstore

import (
	"errors"
	"testing"

	"github.com/hashicorp/raft"
)

// countedLog counts what is read from it, and fails to write when told to.
type countedLog struct {
	*raft.InmemStore
	reads int
	fail  error
}

func (c *countedLog) GetLog(index uint64, out *raft.Log) error {
	c.reads++
	return c.InmemStore.GetLog(index, out)
}

func (c *countedLog) StoreLogs(logs []*raft.Log) error {
	if c.fail != nil {
		return c.fail
	}
	return c.InmemStore.StoreLogs(logs)
}

func TestRecentLog(t *testing.T) {
	under := &countedLog{InmemStore: raft.NewInmemStore()}
	c := newRecentLog(under, 4, 100)
	store := func(term, first, last uint64, size int) {
		t.Helper()
		var logs []*raft.Log
		for i := first; i <= last; i++ {
			logs = append(logs, &raft.Log{Index: i, Term: term, Data: make([]byte, size)})
		}
		if err := c.StoreLogs(logs); err != nil {
			t.Fatal(err)
		}
	}
	// expect reads the entry and says whether it had to come from below.
	expect := func(index, term uint64, below bool) {
		t.Helper()
		var l raft.Log
		before := under.reads
		if err := c.GetLog(index, &l); err != nil || l.Index != index || l.Term != term {
			t.Fatalf("entry %d of term %d: %v, %v", index, term, l, err)
		}
		if got := under.reads > before; got != below {
			t.Fatalf("entry %d came from the log below: %v, want %v", index, got, below)
		}
	}
	store(1, 1, 6, 10)
	expect(2, 1, true)
	expect(3, 1, false)
	expect(6, 1, false)
	store(1, 7, 8, 45) // 10 + 45 + 45 bytes
	expect(5, 1, true)
	expect(6, 1, false)
	store(1, 9, 9, 200) // alone too large: read it where it is
	expect(9, 1, true)
	store(1, 10, 10, 1)
	expect(10, 1, false)

	// A new leader's entries take the place of those that were cut off.
	if err := c.DeleteRange(8, 10); err != nil {
		t.Fatal(err)
	}
	store(2, 8, 9, 1)
	expect(8, 2, false)
	expect(7, 1, true)
	var l raft.Log
	if err := c.GetLog(10, &l); !errors.Is(err, raft.ErrLogNotFound) {
		t.Fatalf("an entry that was cut off: %v, %v", l, err)
	}
	// After a snapshot the log goes on further up.
	store(3, 20, 21, 1)
	expect(20, 3, false)
	expect(9, 2, true)
	// What was not written is not there.
	under.fail = errors.New("disk full")
	if err := c.StoreLogs([]*raft.Log{{Index: 22, Term: 3}}); err == nil {
		t.Fatal("the failure was hidden")
	}
	if err := c.GetLog(22, &l); !errors.Is(err, raft.ErrLogNotFound) {
		t.Fatalf("an entry that was not written: %v, %v", l, err)
	}
}
