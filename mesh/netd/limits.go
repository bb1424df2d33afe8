package netd

import "time"

const (
	// A Linux bridge has 1023 ports.
	maxEndpoints = 1000
	// Ports published by one endpoint, and by all endpoints of a node: each
	// holds a file descriptor.
	maxPortsPerEndpoint = 64
	maxPorts            = 4096

	// Prefix lengths of the bridge's subnet.
	minPrefix, maxPrefix = 8, 29

	// MTU of containers on a node without an uplink, and the least that IPv4
	// hosts must take.
	defaultMTU, minMTU = 1500, 576

	// Connections served at once; redoubtd needs one.
	maxConns = 16

	// How often the kernel's state is compared with the desired one when no
	// change was announced, and the pause after an announced change in which
	// further ones are gathered.
	repairEvery  = 5 * time.Second
	repairSettle = 50 * time.Millisecond

	// One kernel request may take this long.
	netlinkTimeout = 30 * time.Second

	// Elements in one nftables message: an attribute's length is 16 bits.
	maxElementsPerMessage = 256

	// Attempts to commit a ruleset while somebody else changes his.
	maxCommits = 5
)
