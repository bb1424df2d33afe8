package named

import "time"

const (
	// What may be declared. A node has a thousand containers at most.
	maxSandboxes          = 2048
	maxNetworks           = 4096
	maxNetworksPerSandbox = 64
	maxAddresses          = 64 // of a sandbox, a task or a service
	maxSearch             = 6  // resolv.conf(5)
	maxSubnets            = 4  // of a network
	maxInternal           = 64
	maxAliases            = 64
	maxPorts              = 128
	maxUpstreams          = 3 // resolv.conf(5)
	// Names of one network, of all that is made from what is declared, and of
	// all networks.
	maxNamesPerNetwork = 300_000
	maxNames           = 2_000_000

	// A name in presentation form, and a label.
	maxName, maxLabel = 253, 63

	// Seconds that resolvers may keep an answer, and that there is none: about as
	// long as they may speak of a task after it was withdrawn.
	ttl = 1

	// Addresses in one answer; which are left out changes with every answer.
	maxAnswers = 1000
	// Targets in one SRV answer.
	maxTargets = 500

	// The largest query, and the largest answer over UDP. A sandbox's loopback
	// has no fragments to fear; the way to a resolver has.
	maxQuery    = 4096
	maxUDP      = 4096
	minUDP      = 512
	upstreamUDP = 1232
	maxTCP      = 65535

	// Queries of one sandbox that wait for a resolver, or for their sandbox to be
	// declared, and of all; and how long for the latter.
	maxWaitingPerSandbox = 128
	maxWaiting           = 2048
	declaredWithin       = 3 * time.Second

	// Queries that one sandbox may ask in a second, and at once. What exceeds it
	// waits in the socket, and what does not fit there is lost.
	maxRate  = 5000
	maxBurst = 2500

	// TCP connections of one sandbox, and of all.
	maxConnsPerSandbox = 16
	maxConns           = 2048
	// How long a connection may be without a query, and a query or an answer may
	// take to pass.
	idleTCP = 10 * time.Second
	slowTCP = 5 * time.Second

	// A resolver's time for one try, and for the whole of a name: the stub in the
	// container gives up after 5 s.
	tryWithin     = 1500 * time.Millisecond
	forwardWithin = 4500 * time.Millisecond
	// Datagrams that do not fit the question, after which TCP is used instead.
	maxForged = 16

	// Connections on the control sockets: one caller each.
	maxControlConns = 8
	// Sandboxes whose sockets may be held; and the names of them in a State.
	maxBoxes = maxSandboxes

	// How long netd may take for one message, once it began.
	handWithin = 10 * time.Second
)
