package orchestrator

import "time"

const (
	// MaxHistory is how many ended tasks are kept of a slot.
	MaxHistory = 5
	// MaxEndedTasks is how many tasks are kept of the runs of a job that have ended: of each
	// all or none, the newest first.
	MaxEndedTasks = 1000
	// maxCreates bounds the tasks one plan makes. The rest follows in the next,
	// so that one large service neither fills the memory nor keeps the others
	// waiting.
	maxCreates = 2000
	// maxLook bounds the slots one plan looks at, for the same reason.
	maxLook = 4000
	// MaxWaiting is how many slots of a service may wait for a node before no
	// more are made. They are there to be seen, with the reason, and to be
	// placed at once when there is room; the others follow.
	MaxWaiting = 256

	// rebalanceWait is how long moves wait for what should run to do so.
	rebalanceWait = 15 * time.Minute

	// maxReason bounds what is told of why a task failed.
	maxReason = 200

	// defaultGrace is how long a task may take to stop where its service does not
	// say.
	defaultGrace = 10 * time.Second

	// worksAfter is how long a task must have been there for its end not to
	// count as one of a row of failures.
	worksAfter = time.Minute
	// maxDelay bounds the doubled restart delay, unless the policy's own is
	// longer.
	maxDelay = 5 * time.Minute
)
