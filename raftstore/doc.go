// Package raftstore is the encrypted, replicated store in which a cluster keeps
// its state: typed tables of protobuf objects, replicated by raft to every
// manager and sealed before anything reaches the disk.
//
// # What it owns
//
// The raft log, raft's own small values (term and vote), snapshots, and the
// state machine in memory. Every record is sealed through a Sealer and bound to
// cluster, incarnation, node, place and kind; docs/formats.md has the bytes.
// A record that does not open stops the store with an error that names it. A
// command that this version does not understand stops it too: a manager that
// cannot follow its neighbours exactly must not go on.
//
// # What it refuses
//
// It knows no domain type, no key and no certificate. Rooms register their
// tables, autolock is reached through Sealer, and peers are authenticated by
// whoever makes the Transport; PeerAllowed tells them whom to accept. There is
// no way to change state but Update, and no storage in clear.
//
// # Use
//
// A room describes its tables once:
//
//	var Nodes = raftstore.NewTable("nodes",
//		raftstore.Index[*pb.Node]{Name: "name", Unique: true, Keys: func(n *pb.Node) []string { return []string{n.GetName()} }})
//
// Reading takes a local snapshot and no lock:
//
//	err := s.View(func(tx *raftstore.ReadTx) error {
//		node, ok := Nodes.Get(tx, id)
//		…
//	})
//
// What is read is shared: clone it before changing it. Writing happens at the
// leader:
//
//	err := s.Update(ctx, func(tx *raftstore.Tx) error {
//		node, ok := Nodes.Get(tx, id)
//		if !ok {
//			return errNoNode
//		}
//		node = proto.Clone(node).(*pb.Node)
//		node.Drained = true
//		return Nodes.Put(tx, node)
//	})
//
// The function runs on a snapshot, without a lock; what it wrote is then
// proposed and checked again where it is applied. If an object that it got by
// id was changed meanwhile, it is run again, so it must do nothing but read and
// write tables. Objects seen through All, By or Prefix are not checked in this
// way unless they are written or fetched with Get too, and neither is the
// absence of others; what must be unique belongs into a unique index.
//
// Watch gives a snapshot and the events right after it. A consumer that is too
// slow gets ErrLagged and begins again: nobody waits for it.
//
// # The audit log
//
// An Update under a context that WithRecorder made carries a record of what it
// writes. The state machine appends it to the audit log (package auditlog) with
// the change or not at all. Records reads it.
//
// # Conditions
//
// An Update under a context that WithCondition made asks the condition first, of
// the state that it begins with; what the condition writes is part of the
// transaction, where that writes anything.
//
// # Linearizability
//
// A View may be behind. After Barrier has returned at the leader, a View there
// sees everything that any manager had acknowledged before the call. WhileLeader
// runs a function while this manager leads, beginning with such a state.
//
// # The leader's own disk
//
// A leader writes an entry to its disk while the followers write it to theirs.
// It applies and acknowledges nothing, and calls nothing committed to others,
// that its own disk does not hold (tail.go).
//
// # When storage fails
//
// Raft panics where its log or stable store fails. The wrappers end the
// goroutine in question before that and report through Done and Err; the owner
// closes the store and the process exits. What is left to panic are errors
// inside raft itself: a committed entry of a type it does not know, or a
// configuration entry it cannot decode.
//
// # In memory
//
// The state, and the last entries kept for replication, are in clear in the
// memory of the process. Locking a manager means ending that process.
package raftstore
