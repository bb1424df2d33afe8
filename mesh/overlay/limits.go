package overlay

import "time"

const (
	// callTimeout bounds one exchange with netd, the longest of which builds all
	// networks of the node, and namesTimeout one with named.
	callTimeout  = 60 * time.Second
	namesTimeout = 10 * time.Second

	// Between tries of what failed: netd or named away, or an endpoint that could
	// not be made. It doubles from the first to the second.
	firstPause, longestPause = 100 * time.Millisecond, 3 * time.Second

	// How often netd and named are asked whether they still have what they were
	// told; a restart is noticed within it. Queries wait in named for three
	// seconds for what it lost.
	checkNetd, checkNames = 2 * time.Second, time.Second
	// netd reads the counters of every network for it: a node with many asks less
	// often, so that it costs one part in checkShare of a core at most.
	checkShare = 20
	// maxNetdMessage is what one part of a declaration has, in bytes: netd takes
	// messages of 8 MiB, and answers none before it has read all of one.
	maxNetdMessage = 4 << 20
	// The same while a task waits for its sockets to arrive at named.
	checkSockets = 50 * time.Millisecond

	// maxInternal is how many prefixes named keeps from resolvers.
	maxInternal = 64
	// maxResolvers is how many a resolver asks (resolv.conf(5)).
	maxResolvers = 3

	// netd's note is looked at every noteEvery, which is also how soon it follows a
	// change. It has maxNote bytes, as netd takes, and not more than maxKept unpacked.
	noteEvery = time.Second
	maxNote   = 4 << 20
	maxKept   = 64 << 20

	// heardNote is how exactly, in seconds, the note says when a manager was heard.
	heardNote = 300

	// Managers may raise an endpoint again that its node withdrew raiseAfter ago: what
	// they heard of it before is no older than that.
	raiseAfter = 10 * time.Second
	// A task that was told of is told withdrawn for spokenFor after it is gone.
	spokenFor = time.Minute
)
