package lock

import "time"

// Bounds of what is read.
const (
	MaxKeys  = 16
	MaxLinks = 32
	// MaxChain and MaxSigned bound a chain, and a chain with a statement, encoded. A
	// specification has at most 256 KiB.
	MaxChain  = 64 << 10
	MaxSigned = 384 << 10
	// maxServices bounds the services whose serials a node keeps.
	maxServices = 16 << 10
	maxState    = 4 << 20
	maxConfigs  = 256
)

// maxAhead is how far the clock of who signed may be ahead of the node's: a serial from
// far in the future would keep every later one out.
const maxAhead = 24 * time.Hour
