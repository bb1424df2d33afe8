package kernel

import "time"

const (
	// requestTimeout is how long one kernel request may take.
	requestTimeout = 30 * time.Second

	// Bytes and messages of rtnetlink sent at once. Each message that fails is
	// answered, and the answers wait in the socket's buffer.
	batchBytes    = 64 << 10
	batchMessages = 1024
	socketBuffer  = 4 << 20

	// nftSocketBuffer takes a whole transaction, which the kernel wants in one
	// piece.
	nftSocketBuffer = 8 << 20
	// maxElementBytes is after how many the elements of one message end: an
	// attribute's length is 16 bits.
	maxElementBytes = 60 << 10

	// maxWaiting is how many connections without an answer, or closed, are looked at
	// once more before they end. Beyond it somebody floods, and whoever calls then may
	// be cut.
	maxWaiting = 4096

	// maxCommits is how often a transaction, or a reading, is tried while others
	// change the ruleset.
	maxCommits = 5

	// unjudgedPriority is before whatever else an administrator has of IPsec
	// policies, as ours match only what nothing of ours has judged.
	unjudgedPriority = 1

	// noticeBytes is more than most notices have. Of a larger one it is known that
	// it came.
	noticeBytes = 4 << 10
)
