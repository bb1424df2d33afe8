package scheduler

import "time"

const (
	// maxRound is about how many changes one plan holds. What is over follows in
	// the next round, from a newer snapshot.
	maxRound = 2000
	// maxTransaction bounds the changes of one transaction.
	maxTransaction = 200

	// minPause and maxPause bound the wait before the loop starts again.
	minPause = 50 * time.Millisecond
	maxPause = 5 * time.Second
)
