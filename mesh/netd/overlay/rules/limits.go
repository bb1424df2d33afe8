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
	// Connections that one endpoint of this node may have open in a network, and
	// may begin in a second, and all endpoints of another node together: the
	// kernel's table holds 65536 on a node of 1 GiB and 262144 from 4 GiB on, for
	// each network.
	maxFlows, maxFlowRate         = 16384, 1000
	maxNodeFlows, maxNodeFlowRate = 49152, 4000
	// Senders for which connections are counted, for whom the kernel takes memory
	// beforehand; those of more are not. rateMemory is longer than a spent burst
	// takes to be refilled.
	maxCountedEndpoints, maxCountedNodes = 1024, 512
	rateMemory                           = time.Minute
	// maxID bounds an id: it is part of names in the ruleset.
	maxID = 64
)
