package authority

import "time"

const (
	// callTimeout bounds one step that an operator asked for.
	callTimeout = 20 * time.Second

	// lookPause is the least time between two looks at all nodes, and lookRest how
	// many times as long as it took there is none after a look: what a thousand nodes
	// report one by one must not be a thousand looks. lookInterval is the most while a root is being replaced, and idleInterval otherwise.
	// No rest is longer than lookInterval: a look may have taken long for other reasons.
	lookPause    = 30 * time.Millisecond
	lookRest     = 15
	lookInterval = time.Second
	idleInterval = time.Minute

	// wakeTime is how long a new leader waits for managers whose certificates ended
	// while all were off, before it replaces the issuing CA by itself.
	wakeTime = 10 * time.Minute

	// A step that failed is tried again after stepRetry, doubling up to
	// longestStepRetry: keyd limits how often keysets are made.
	stepRetry, longestStepRetry = time.Second, time.Minute

	// abortTries is how often an abort meets a step that was just done.
	abortTries = 3

	// watchPause is the least time between two messages of progress.
	watchPause = 100 * time.Millisecond

	// maxNamed bounds the nodes that a refusal names.
	maxNamed = 20

	// maxWatchNodes bounds the nodes of one message of progress.
	maxWatchNodes = 512
)
