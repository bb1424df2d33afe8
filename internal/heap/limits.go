package heap

import "time"

const (
	// minPercent of what is alive is the room before the next collection, and
	// minRoom where that is less. maxPercent is for a heap of next to nothing.
	minPercent = 50
	minRoom    = 16 << 20
	maxPercent = 400
	// Who allocates at a pace of busyPace a second or more for longer than
	// busyAfter gets room for busySpan of it, maxBusyRoom at most. paceMemory is
	// how long a pace must last to count for two thirds.
	busyPace    = 16 << 20
	busyAfter   = 2 * time.Second
	busySpan    = 1500 * time.Millisecond
	maxBusyRoom = 96 << 20
	paceMemory  = time.Second
	// step is the least change of the percentage that is worth the moment.
	step = 10

	// settleEvery is how often it is looked whether a burst is over: less than
	// quietBytes were allocated since the last look. Then what is not alive is
	// given back, once minIdle and a quarter of what is alive were allocated.
	settleEvery = 3 * time.Second
	quietBytes  = 8 << 20
	minIdle     = 10 << 20
)
