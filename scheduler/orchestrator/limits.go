package orchestrator

const (
	// MaxHistory is how many ended tasks are kept of a slot.
	MaxHistory = 5
	// maxCreates bounds the tasks one plan makes. The rest follows in the next,
	// so that one large service neither fills the memory nor keeps the others
	// waiting.
	maxCreates = 2000
)
