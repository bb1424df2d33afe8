package peer

import (
	"net"
	"time"
)

const (
	// maxPeers is what netd takes.
	maxPeers = 10000

	// maxFrame bounds a frame's payload in bytes; the largest of ours is below 200.
	maxFrame = 4 << 10
	// A peer may say framesAtOnce things, and then one every frameEvery.
	framesAtOnce = 64
	frameEvery   = 100 * time.Millisecond
	// maxQueue frames wait for a peer that does not read.
	maxQueue = 64
	// writeTimeout bounds one write to a peer.
	writeTimeout = 10 * time.Second

	// dialTimeout bounds connecting and shaking hands.
	dialTimeout = 10 * time.Second
	// maxDialling connections are made at a time.
	maxDialling = 32
	// A failed attempt is repeated after redialMin, doubling up to redialMax, each
	// with jitter.
	redialMin = 200 * time.Millisecond
	redialMax = 30 * time.Second
	// helpAfter is how long the node with the higher id waits to be called.
	helpAfter = 2 * time.Second
	// Of two connections of a pair that were made within glare of each other the
	// one that the lower id dialled stays; otherwise the newer one.
	glare = 5 * time.Second

	// maxKept connections stay open; beyond them those that have said nothing for
	// longest are closed until there is something to say.
	maxKept = 512
	// restAfter is how long a connection is left alone after it was used.
	restAfter = 5 * time.Second

	// What strangers may use up: connections whose handshake is not done, of all
	// and of one source, and how often a source may begin one.
	halfOpen          = 512
	halfOpenPerSource = 64
	handshakeBurst    = 512
	handshakeEvery    = time.Second / 100
	handshakePatience = 3 * time.Second
	handshakeTimeout  = 10 * time.Second
	maxSources        = 8192
	// A node may connect connectBurst times at once and then once every
	// connectEvery.
	connectBurst = 16
	connectEvery = time.Second
	// maxUnwelcome nodes that came before they were known are remembered.
	maxUnwelcome = 1024

	// exchangeTimeout bounds one exchange, and the wait for the other's announcement.
	exchangeTimeout = 10 * time.Second
	// Pre-shared keys are made again after secretsLife, give or take a tenth. The
	// node with the higher id asks for it after askAfter.
	secretsLife = time.Hour
	askAfter    = 75 * time.Minute
	// holdFor is how long a node waits for the other's netd (Peers.switched).
	holdFor = 2 * time.Second
	// askAgain is the least between two that are asked for.
	askAgain = time.Second
	// staleAfter is the age from which on pre-shared keys are shown as degraded.
	staleAfter = 3 * time.Hour
	// renewAgain is the least between two renewals of all because a peer was removed.
	renewAgain = time.Minute
	// maxEpochStep bounds by how much a peer may raise the epoch.
	maxEpochStep = 1 << 32

	// rotateEvery is the life of the own WireGuard key, give or take a tenth.
	rotateEvery = 24 * time.Hour
	// From rotateAlone on peers that did not confirm may be left out; after
	// rotateTimeout the change is given up until rotateAgain later.
	rotateAlone   = 30 * time.Second
	rotateTimeout = 10 * time.Minute
	rotateAgain   = time.Hour

	// A declaration that failed is tried again after declareMin, doubling up to
	// declareMax.
	declareMin = 100 * time.Millisecond
	declareMax = 15 * time.Second
	// netdTimeout bounds one exchange with netd.
	netdTimeout = 60 * time.Second
	// netd is looked at every lookEvery, or less often where that takes more than one
	// part in lookShare of the time, but at least every lookMost.
	lookEvery = time.Second
	lookShare = 10
	lookMost  = 5 * time.Second

	// natKeepalive is shorter than any NAT forgets a flow.
	natKeepalive = 25 * time.Second
)

// keepAlive finds a peer that vanished within about a minute.
var keepAlive = net.KeepAliveConfig{Enable: true, Idle: 15 * time.Second, Interval: 15 * time.Second, Count: 3}
