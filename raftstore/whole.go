package raftstore

import (
	"fmt"

	"github.com/hashicorp/raft"
)

// checkWhole refuses a directory of which a part was taken away, although all
// that is left opens. Raft would start on it: without its log and stable values
// it could vote a second time in a term, and without the snapshot that the log
// goes on from it would hold another state than its neighbours.
//
// It also completes what a crash may have left half done.
func checkWhole(logs raft.LogStore, stable raft.StableStore, kept []*raft.SnapshotMeta) error {
	var upTo uint64 // what a snapshot covers
	for _, m := range kept {
		upTo = max(upTo, m.Index)
	}
	first, err := logs.FirstIndex()
	if err != nil {
		return err
	}
	if first > upTo+1 {
		return fmt.Errorf("the log begins at entry %d and no snapshot reaches that far: a part of the directory is missing: %w", first, errLost)
	}
	last, err := logs.LastIndex()
	if err != nil {
		return err
	}
	another := false // the log has another entry where the snapshot ends
	for _, m := range kept {
		var l raft.Log
		if m.Index == upTo && first > 0 && first <= upTo && upTo <= last {
			if err := logs.GetLog(upTo, &l); err != nil {
				return err
			}
			another = another || l.Term != m.Term
		}
	}
	if first > 0 && last < upTo || another {
		// A snapshot came from the leader, and the process ended before the log
		// it replaces was dropped. What follows would leave a gap behind it, or
		// belongs to what the snapshot has replaced.
		if err := logs.DeleteRange(first, last); err != nil {
			return err
		}
	}
	term, err := stable.GetUint64([]byte("CurrentTerm"))
	if (first > 0 || upTo > 0) && (err != nil || term == 0) {
		return fmt.Errorf("there are entries or snapshots, but not the term that belongs to them: a part of the directory is missing: %w", errLost)
	}
	return nil
}
