package rules

import "time"

const (
	// What one network may have. The whole ruleset goes to the kernel in one
	// message, which its buffer must hold.
	maxEndpoints = 16384
	maxServices  = 16384
	maxRules     = 4096
	// Pairs of services that rules name.
	maxPairs = 65536
	// Backends of one service, and addresses of one family that any may have.
	maxAddrs = 8
	// maxID bounds an id: it is part of names in the ruleset.
	maxID = 64

	// Elements in one nftables message: an attribute's length is 16 bits.
	maxElementsPerMessage = 256

	// requestTimeout is how long one request about connections may take.
	requestTimeout = 30 * time.Second
	// How often they are read while they change.
	maxDumps = 3
)
