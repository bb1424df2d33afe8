package ingress

import "time"

const (
	// Services that one node answers for or has tasks of. Marks have 16 bits.
	maxServices = 4096
	// Ports of one service, and of all; each holds a file descriptor on an entry
	// node.
	maxServicePorts = 64
	maxPorts        = 4096
	// Tasks of one service, and of all.
	maxServiceEndpoints = 1 << 14
	maxEndpoints        = 1 << 16
	// Other nodes that answer.
	maxEntries = 10000

	// Prefix lengths of the subnet.
	minBits, maxBits = 8, 24
	// The last addresses of the subnet are the same on every node.
	sharedAddrs = 4

	maxVNI   = 1<<24 - 1
	maxNetns = 64

	// VXLAN takes 50 bytes of the tunnel's packet; what is left must hold the
	// 1280 that IPv6 demands. Without a mesh, interfaces have what an overlay has
	// over Ethernet, so that nothing changes when the mesh comes.
	vxlanOverhead = 50
	minMTU        = 1280
	defaultMTU    = 1370

	// How often the state is compared with the desired one when no change was
	// announced, and the pause after an announcement in which more are gathered.
	repairEvery  = 5 * time.Second
	repairSettle = 50 * time.Millisecond
	// Within what time every sandbox is looked at.
	sweepWithin = time.Minute

	// Elements in one nftables message: an attribute's length is 16 bits.
	maxElementsPerMessage = 256
)
