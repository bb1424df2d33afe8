package scheduler

import (
	"time"

	"github.com/redoubt-cluster/redoubt/raftstore"
)

const (
	// maxRound is about how many changes one plan holds. What is over follows in
	// the next round, from a newer snapshot.
	maxRound = 2000
	// maxTransaction and maxTransactionBytes bound one transaction, well within
	// what the store takes; taskOverhead is what a task costs beside itself.
	maxTransaction      = 1000
	maxTransactionBytes = raftstore.MaxTransactionBytes / 2
	taskOverhead        = 128

	// maxEnds is how many runs of jobs one transaction ends.
	maxEnds = 100

	// maxWait is how long the loop waits for a time at most before it looks at the clock.
	maxWait = time.Minute

	// messagePause is the least time between two reasons why a task waits.
	messagePause = 10 * time.Second

	// addressPause is when the leader looks again whether nodes can get their
	// addresses in the mesh.
	addressPause = 5 * time.Second

	// maxMoving is how many tasks of all services make way for others of their slot at a
	// time; maxSearches how many services one plan looks at for more.
	maxMoving   = 4
	maxSearches = 64

	// maxYielding is how many tasks end at a time so that ones of a higher priority have
	// their place; preemptPause the least time between two searches for one that waits, or in vain
	// for those like it.
	maxYielding  = 64
	preemptPause = 10 * time.Second
	// maxPreempts bounds the searches of one plan, each of which may look at every task.
	maxPreempts = 8

	// minPause and maxPause bound the wait before the loop starts again.
	minPause = 50 * time.Millisecond
	maxPause = 5 * time.Second
)
