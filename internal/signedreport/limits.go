package signedreport

import "time"

const (
	// maxText bounds a statement, and MaxEnvelope one with its envelope.
	maxText     = 2 << 10
	MaxEnvelope = 8 << 10
	// maxSkew is by how much the clocks of two managers may differ: one that is 30 s off
	// the others' does not lead.
	maxSkew = 2 * time.Minute
)
