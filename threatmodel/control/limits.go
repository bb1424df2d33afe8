package control

import "time"

const (
	maxParallel = 8                // checks at a time
	maxTime     = 20 * time.Second // for one check
	maxEvidence = 20               // lines of one result
	maxLine     = 240              // bytes of one line
	maxProcFile = 1 << 20          // bytes of one file of /proc

	piece   = 256 << 10 // bytes of a file that are looked at together
	overlap = 64        // bytes that a piece has of the one before
)
