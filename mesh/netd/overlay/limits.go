package overlay

import "time"

const (
	// Networks of one node, and what one of them has.
	maxNetworks  = 4096
	maxEndpoints = 1 << 14
	maxServices  = 1 << 14
	maxRules     = 1 << 12
	maxSandboxes = maxEndpoints
	// Endpoints of all networks of one node.
	maxAllEndpoints = 1 << 18
	// Services that one end of a rule names.
	maxRuleEnds = 1024
	// Interfaces of one sandbox: ov0 to ov63.
	maxIndex = 64

	// Prefix lengths of subnets.
	minBits4, maxBits4 = 8, 29
	minBits6, maxBits6 = 32, 120

	maxVNI = 1<<24 - 1

	// Lengths of names.
	maxNetns  = 64
	maxRuleID = 64

	// VXLAN takes 50 bytes of the tunnel's packet; what is left must hold the
	// 1280 that IPv6 demands.
	vxlanOverhead = 50
	minMTU        = 1280

	// The least multiple of what a repair took that passes before the next of the
	// same network.
	restFactor = 10
	// The pause after an announced change in which more are gathered.
	repairSettle = 50 * time.Millisecond
	// Networks that are made or removed at the same time.
	maxAtOnce = 8
	// Networks whose connections are looked through before declarations get their
	// turn again: each is a walk through the table of all of the machine's.
	maxWalks = 4
	// How often it is looked at the node's end of the tunnels, and within what
	// time every network is compared whether or not a change was announced.
	lookEvery   = 5 * time.Second
	sweepWithin = time.Minute
	// What failed is tried again after this time, which doubles up to the latter.
	retryFirst, retryMost = 200 * time.Millisecond, 5 * time.Second
)
