package ingress

import "time"

const (
	// The following are more than managers let there be, as one too many refuses
	// everything.

	// Services that one node answers for or has tasks of. Marks have 16 bits.
	maxServices = 1 << 13
	// Ports of one service, and of all; each holds a file descriptor on an entry
	// node, and one for each family.
	maxServicePorts = 64
	maxPorts        = 1 << 13
	// Tasks of one service, and of all.
	maxServiceEndpoints = 1 << 15
	maxEndpoints        = 1 << 16
	// Other nodes that answer.
	maxEntries = 10000

	// Prefix lengths of the subnet.
	minBits, maxBits   = 8, 24
	minBits6, maxBits6 = 48, 64
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

	// Connections to published ports that one client may have open and may begin in
	// a second, on one entry node. The kernel's table holds 65536 on a node of 1 GiB
	// and 262144 from 4 GiB on: one client has half of it at most. As much is what
	// an office behind one address has ports for, and a balancer before the nodes.
	maxClientFlows, maxClientRate = 32768, 4000
	// The same for all clients of one entry node together, on the node of the task:
	// what an endpoint's node may have in an overlay network.
	maxEntryFlows, maxEntryRate = 49152, 4000
	// Senders that are counted, for whom the kernel takes memory beforehand (8 bytes
	// each and twice); those of more are not. rateMemory is longer than a spent burst
	// takes to be refilled.
	maxCountedClients, maxCountedEntries = 32768, 4096
	rateMemory                           = time.Minute
	// How long the kernel remembers what was begun and not answered, and what ended,
	// in the place of 30 to 120 s. A first packet is sent again after 1, 3 and 7 s.
	halfOpenFor, unansweredFor, closedFor = 10 * time.Second, 15 * time.Second, 30 * time.Second

	// traceFor is longer than the kernel keeps a closed connection in which nobody
	// sends, by default 2 min.
	traceFor = 3 * time.Minute

	// Of more chains that a change makes, all are read and not each.
	maxReread = 64
)
