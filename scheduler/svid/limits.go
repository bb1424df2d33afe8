package svid

import "time"

const (
	// A certificate is renewed at a random part of its life between these.
	renewFrom, renewTo = 0.5, 0.8

	// Between attempts while managers do not answer, or refuse.
	minRetry = 250 * time.Millisecond
	maxRetry = 15 * time.Second
	// maxPause is the same while rund does not answer.
	maxPause = 2 * time.Second

	// maxGiven bounds what is remembered of a task's certificates of before.
	maxGiven = 8

	// issueTimeout bounds one batch, and lookAgain how long a change of the roots
	// may go unseen.
	issueTimeout = 20 * time.Second
	lookAgain    = 30 * time.Second

	// Between attempts to write files.
	minFileRetry = 50 * time.Millisecond
	maxFileRetry = 2 * time.Second

	// reportPause is the least time between two reports of what tasks hold.
	reportPause = 2 * time.Second

	// tokenLife is the life of tokens; one is handed out again until half of it is
	// over. tokenWait bounds how long a caller waits for a new one.
	tokenLife = 5 * time.Minute
	tokenWait = 15 * time.Second

	// Of one task: tokens that are remembered, new ones at once and then one each
	// refill.
	maxTokens   = 32
	tokenBurst  = 32
	tokenRefill = time.Second

	// Of one task's Workload API: connections, calls under way on each, calls at
	// once and in a second. Calls beyond wait, which slows who makes them; what waits
	// is bounded by connections and calls on each.
	maxConns  = 32
	maxCalls  = 8
	callBurst = 4000
	callRate  = 2000

	// maxRequest bounds a request, the largest of which is a token to be validated,
	// and maxHeaders its headers, in bytes.
	maxRequest = 20 << 10
	maxHeaders = 8 << 10

	// maxToken bounds a token that is to be validated, in bytes.
	maxToken = 16 << 10

	// skew is by how much an issuer's clock may be ahead of this node's.
	skew = 30 * time.Second
)
