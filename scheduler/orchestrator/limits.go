package orchestrator

import "time"

const (
	// MaxHistory is how many ended tasks are kept of a slot.
	MaxHistory = 5
	// maxCreates bounds the tasks one plan makes. The rest follows in the next,
	// so that one large service neither fills the memory nor keeps the others
	// waiting.
	maxCreates = 2000

	// worksAfter is how long a task must have been there for its end not to
	// count as one of a row of failures.
	worksAfter = time.Minute
	// maxDelay bounds the doubled restart delay, unless the policy's own is
	// longer.
	maxDelay = 5 * time.Minute
)
