package raftstore

import (
	"sync"

	"github.com/hashicorp/raft"

	"github.com/redoubt-cluster/redoubt/raftstore/raftstorepb"
)

// decoded is a command as its bytes say, with the objects that it writes.
// Nothing of it depends on the state, so it can be made before the entry is
// committed, and is the same whoever makes it and when.
type decoded struct {
	index, term uint64
	cmd         *raftstorepb.Command
	objects     map[*raftstorepb.Op]Object // those that decode; nil: none was tried
}

// ahead decodes a leader's entry while the leader waits for the first follower,
// so that it need not be done between that one's answer and the caller's. A
// leader has one command under way, so one is kept. What was decoded counts for
// the entry of that index and term alone, which in raft are one entry's for ever.
// It is taken once: the state machine keeps the objects.
type ahead struct {
	mu     sync.Mutex // guards the rest; held while decoding, so that nobody decodes the same
	kept   *decoded   // nil: none
	wanted uint64     // the state machine is at this entry, or was
}

// foresee decodes an entry that will probably be applied.
func (f *fsm) foresee(l *raft.Log) {
	f.ahead.mu.Lock()
	defer f.ahead.mu.Unlock()
	if l.Type != raft.LogCommand || l.Index <= f.ahead.wanted {
		return
	}
	f.ahead.kept = nil
	cmd, err := decodeCommand(l.Data)
	if err != nil {
		return // it is said by who applies it, if it is applied
	}
	d := &decoded{index: l.Index, term: l.Term, cmd: cmd, objects: map[*raftstorepb.Op]Object{}}
	for _, t := range cmd.Transactions {
		for _, op := range t.Ops {
			table, known := f.tables[op.Table]
			if !known || op.Object == nil {
				continue
			}
			if o, err := table.decode(op.Object); err == nil {
				d.objects[op] = o
			}
		}
	}
	f.ahead.kept = d
}

// take returns what was decoded of an entry, or decodes its command.
func (f *fsm) take(l *raft.Log) (*decoded, error) {
	f.ahead.mu.Lock()
	d := f.ahead.kept
	if f.ahead.wanted = max(f.ahead.wanted, l.Index); d != nil && d.index <= l.Index {
		f.ahead.kept = nil
	}
	f.ahead.mu.Unlock()
	if d != nil && d.index == l.Index && d.term == l.Term {
		return d, nil
	}
	cmd, err := decodeCommand(l.Data)
	if err != nil {
		return nil, err
	}
	return &decoded{index: l.Index, term: l.Term, cmd: cmd}, nil
}
