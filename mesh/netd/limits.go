package netd

import "time"

const (
	// A Linux bridge has 1023 ports.
	maxEndpoints = 1000
	// Ports published by one endpoint, and by all endpoints of a node: each
	// holds a file descriptor.
	maxPortsPerEndpoint = 64
	maxPorts            = 4096

	// Addresses of managers: a cluster has seven managers at most, and some
	// may have changed theirs.
	maxManagers = 64

	// Addresses of nodes, name servers of containers (resolv.conf(5) has three),
	// and ports of nodes that a configuration opens.
	maxNodes     = 32768
	maxResolvers = 8
	maxMayReach  = 256

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

	// Connections that one container may have open, and may open in a second,
	// so that none fills the node's table of connections: that holds 65536 on
	// a node of 1 GiB and 262144 from 4 GiB on. The kernel looks through all
	// that a container has when it opens another one.
	maxFlows     = 16384
	maxFlowRate  = 1000
	maxFlowBurst = maxFlows

	// Addresses for which connections are counted; the kernel drops those
	// without. rateMemory is longer than a spent burst takes to be refilled.
	maxCounted = 1 << 16
	rateMemory = time.Minute

	// What a declaration of networks may have that comes in parts.
	maxPartNetworks, maxPartEndpoints = 4096, 1 << 18

	// What redoubtd may have kept for its next process, in bytes.
	maxNote = 4 << 20

	// meddledFor is how long a node shows that somebody changed its rules.
	meddledFor = 24 * time.Hour

	// firstOut and lastOut are the ports from which containers call nodes: those that
	// kernels give to callers, and at which nothing is served.
	firstOut, lastOut = 32768, 60999
)
