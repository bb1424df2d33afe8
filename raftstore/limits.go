package raftstore

import "time"

// Bounds of the store. None of them is configuration: every manager of a
// cluster must agree on what fits into an entry.
const (
	// MaxManagers bounds the servers of a cluster: more voters make every write
	// slower and bear no likely loss.
	MaxManagers = 7
	// MaxTransactionBytes bounds the encoded form of one Update.
	MaxTransactionBytes = 1 << 20
	// MaxTransactionOps bounds the writes of one Update.
	MaxTransactionOps = 4096
	// MaxTransactionReads bounds the preconditions of one Update.
	MaxTransactionReads = 16384
	// MaxIDBytes bounds the id of an object.
	MaxIDBytes = 256
	// MaxKeyBytes bounds one key of a secondary index.
	MaxKeyBytes = 512
	// MaxKeysPerIndex bounds the keys one object has in one index.
	MaxKeysPerIndex = 1024

	// maxBatchTransactions and maxBatchBytes bound one log entry.
	maxBatchTransactions = 1024
	maxBatchBytes        = 1 << 20
	// maxCommandBytes is what the state machine accepts as one entry. It is
	// larger than what a proposer makes, so that a bound may be raised by one
	// version and understood by the version before.
	maxCommandBytes = 16 << 20
	// maxWaitingTransactions bounds the queue in front of the proposer.
	maxWaitingTransactions = 4096

	// maxUpdateAttempts bounds how often an Update is run again because
	// something it read had changed.
	maxUpdateAttempts = 16

	// maxWatchEvents bounds what waits for one slow consumer.
	maxWatchEvents = 16384

	// snapshotChunkBytes is the plaintext of one sealed snapshot chunk, and
	// maxSealedOverhead what sealing may add to it.
	snapshotChunkBytes = 64 << 10
	maxSealedOverhead  = 1 << 10
	// maxSnapshotMetaBytes bounds the sealed description of a snapshot.
	maxSnapshotMetaBytes = 1 << 20
	// maxSnapshotObjectBytes bounds one object of a snapshot.
	maxSnapshotObjectBytes = maxCommandBytes
	// snapshotsKept is how many snapshots stay on disk, and snapshotWriters how
	// many of raft's goroutines write some: so many more may stay for a while.
	// snapshotsRemembered is how many of those that were removed are known, to
	// tell them from such as are missing.
	snapshotsKept       = 2
	snapshotWriters     = 2
	snapshotsRemembered = 64
	// keptSegments is how many full segments of the audit log stay in the state: so
	// many entries a manager that was away gets with a snapshot.
	keptSegments = 2
	// edgesKept is of how many snapshots the last entry is known.
	edgesKept = 8

	// recentEntries and recentBytes bound the recent entries held in memory, in
	// clear, for replication.
	recentEntries = 1024
	recentBytes   = 8 << 20
	// maxTailBytes bounds what a leader has sent and not written yet: where it is
	// more, it waits for its own disk.
	maxTailBytes = 4 << 20
	// maxCopyEntries and maxCopyBytes bound what of the log is copied at a time while
	// its key is renewed.
	maxCopyEntries = 1024
	maxCopyBytes   = 4 << 20
	// maxAppendEntries bounds one replication message.
	maxAppendEntries = 64
	// snapshotThreshold is how many entries make a new snapshot worth while;
	// trailingLogs stay for followers that are a little behind.
	snapshotThreshold = 8192
	trailingLogs      = 4096
	snapshotInterval  = 30 * time.Second

	// defaultElectionTimeout is also the leader's lease, after which it steps
	// down: nothing is read on that lease, and with half of it a busy machine
	// costs leaders.
	defaultElectionTimeout = 600 * time.Millisecond
	// defaultCommitTimeout is raft's own. A tenth of it had an idle leader of three
	// managers busy with 8 % of a core, rather than 2.5 %.
	defaultCommitTimeout = 50 * time.Millisecond
	defaultIOTimeout     = 10 * time.Second
	// appendTimeout is how long a disk may take for one append before a leader
	// hands over.
	appendTimeout = 5 * time.Second
	// handoverTimeout and closeTimeout bound what Close waits for: another leader,
	// and the end of what is under way, of which a disk is the slowest.
	handoverTimeout = 5 * time.Second
	handoverRetry   = time.Second // of a leader whose disk hangs
	closeTimeout    = 30 * time.Second
	// enqueueTimeout bounds the wait for a place in raft's own queue.
	enqueueTimeout = 10 * time.Second
	// establishRetry is the pause before a new leader tries again to complete
	// its state.
	establishRetry = 100 * time.Millisecond
	// confirmRetry is the same where its clock was not confirmed and nobody took
	// leadership over.
	confirmRetry = time.Second
	// membershipTimeout bounds the wait before a membership change is started.
	membershipTimeout = 10 * time.Second
	// transportPool is the number of idle connections kept to each peer, and
	// maxRPCsInFlight the depth of replication pipelining.
	transportPool   = 3
	maxRPCsInFlight = 2

	// failoverStagger is what each further follower waits before it stands for
	// election in place of a leader whose process is gone, failoverDial bounds
	// one attempt to reach it, and failoverProbes, failoverProbePause apart, the
	// attempts.
	failoverStagger    = 100 * time.Millisecond
	failoverDial       = time.Second
	failoverProbes     = 4
	failoverProbePause = 20 * time.Millisecond
	// verifyAtOnce is how often raft is asked again at once whether this server
	// leads, verifyMinPause to verifyMaxPause what is waited before later times.
	verifyAtOnce                   = 2
	verifyMinPause, verifyMaxPause = time.Millisecond, 20 * time.Millisecond
	// What is known of the others' disks is saved every witnessInterval where it
	// changed, and at once where a term or witnessEntries entries were added. Of
	// maxWitnessed servers at most: some may have been removed since.
	witnessInterval = 30 * time.Second
	witnessEntries  = 10_000
	maxWitnessed    = 64
	// acceptRetry is the pause after accepting a connection failed.
	acceptRetry = 50 * time.Millisecond
	// A dialled connection is given up at a random point of this part of its
	// certificates' remaining life.
	minConnLife, maxConnLife = 0.5, 0.8
)
