package raftstore

import (
	"fmt"

	"github.com/hashicorp/raft"
)

// A message of the leader says which of its entries are committed, and may say so
// of more than it has with it: the leader reads where its log ends, waits because
// the last message did not arrive, and then reads what is committed. Raft at the
// follower goes by its own log there, up to the log's end. Behind the message's
// last entry nothing was compared: what stands there may be what an earlier leader
// had sent and lost. It would be applied, its successor with the same index never,
// and this replica would go another way than the others, for good and unseen. By
// the algorithm (Ongaro and Ouster, figure 2) the last entry of the message bounds
// what it commits.
//
// So both sides see to it: the follower, whoever leads, and the leader, for
// followers of an earlier version.

// reach is the last entry of a message: up to there the logs are the same where it
// is not refused.
func reach(req *raft.AppendEntriesRequest) uint64 {
	if n := len(req.Entries); n > 0 {
		return req.Entries[n-1].Index
	}
	return req.PrevLogEntry
}

// withinReach is the request, or one that calls committed what it reaches alone.
func withinReach(req *raft.AppendEntriesRequest) *raft.AppendEntriesRequest {
	at := reach(req)
	if req.LeaderCommitIndex <= at {
		return req
	}
	out := *req
	out.LeaderCommitIndex = at
	return &out
}

// notApplied is an error where the entry from which on the log is not the leader's
// was applied. Then this state is nobody else's, whatever brought it about, and
// must not be gone on from: neither read, nor voted with, nor kept. What is applied
// is on no disk but in snapshots.
func (e *edgeLog) notApplied(index uint64) error {
	applied := e.applied.Load()
	if applied == nil || index > (*applied)() {
		return nil
	}
	if index > e.last() {
		return fmt.Errorf("entry %d was applied here, and the leader has another one: start this manager again, it then makes its state anew", index)
	}
	return fmt.Errorf("entry %d is part of the snapshot here, and the leader has another one: take this manager out of the cluster and let it join again", index)
}
