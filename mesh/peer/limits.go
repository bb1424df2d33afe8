package peer

import (
	"net"
	"time"
)

const (
	// maxPeers is what netd takes.
	maxPeers = 10000

	// MinUnderlayMTU and MaxUnderlayMTU bound Options.UnderlayMTU, as netd does;
	// minMTU and maxMTU what a tunnel takes in one piece.
	MinUnderlayMTU, MaxUnderlayMTU = 1410, 65515
	minMTU, maxMTU                 = MinUnderlayMTU - 80, MaxUnderlayMTU - 80

	// maxFrame bounds a frame's payload in bytes: a statement with all around it. The
	// largest of the others is below 200.
	maxFrame = maxStatement + maxChainBytes + 4<<10
	// A peer may say framesAtOnce things, and then one every frameEvery.
	framesAtOnce = 64
	frameEvery   = 100 * time.Millisecond
	// maxQueue frames wait for a peer that does not read.
	maxQueue = 512
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
	// proofSize is that of HMAC-SHA-256; netd is asked for proofs again after proveAgain.
	proofSize  = 32
	proveAgain = time.Second
	// rekeyAfter is the age of a session at which WireGuard shakes hands again; trialFor
	// is longer than it waits between two attempts.
	rekeyAfter = 120 * time.Second
	trialFor   = 7 * time.Second
	// askAgain is the least between two that are asked for.
	askAgain = time.Second
	// staleAfter is the age from which on pre-shared keys are shown as degraded.
	staleAfter = 3 * time.Hour
	// settleIn is how long a new peer may take before what it lacks is shown as
	// degraded.
	settleIn = 15 * time.Second
	// renewAgain is the least between two renewals of all because a peer was removed.
	renewAgain = time.Minute
	// maxEpochStep bounds by how much a peer may raise the epoch.
	maxEpochStep = 1 << 32

	// maxSaid tasks of a node stand in a statement of one network; each takes 16
	// bytes.
	maxSaid      = 1024
	maxStatement = 16*maxSaid + 256
	// What is around it: certificates without the root, an ECDSA signature, and to
	// whom it is passed.
	maxChain      = 3
	maxChainBytes = 12 << 10
	maxSignature  = 80
	maxPass       = 64
	// Up to direct peers of a network are told by the node itself; of more, relays
	// at least, each of which passes it to its share of the others. Who has not
	// confirmed it after confirmWithin is told directly.
	direct        = 32
	relays        = 16
	confirmWithin = 250 * time.Millisecond
	// Two statements of one network are sayAgain apart.
	sayAgain = 100 * time.Millisecond
	// A peer hears hearAtOnce statements, and then one every hearEvery. It is told at
	// half of that pace.
	hearAtOnce, hearEvery = 256, 15 * time.Millisecond
	sayAtOnce, sayEvery   = hearAtOnce / 2, 2 * hearEvery
	// A relayed statement is believed for relayWithin, by the clocks of both; who
	// says it itself may have any clock.
	relayWithin = 5 * time.Minute
	// signAgain is the pause after a statement could not be signed.
	signAgain = time.Second

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

	// A peer without a connection is asked for a sign of life every askLifeEvery, and has
	// askLifeFor to give it: longer than WireGuard's handshake and a second try of TCP's
	// take. It is silent when silentQuestions were in vain and nothing came for
	// silentAfter, which is longer than the connections of a node that is cut off take to
	// end one after the other. maxAsking are asked at a time.
	askLifeEvery    = 4 * time.Second
	askLifeFor      = 3 * time.Second
	silentQuestions = 2
	silentAfter     = 8 * time.Second
	maxAsking       = 64
	// WireGuard answers what it was sent within ten seconds. A peer that did not for
	// muteAfter, and has no connection as nothing was to be said, is called.
	muteAfter = 12 * time.Second

	// natKeepalive is shorter than any NAT forgets a flow.
	natKeepalive = 25 * time.Second
)

// keepAlive and lostAfter find a peer that vanished, whether something was on its way
// to it or not.
const lostAfter = 8 * time.Second

var keepAlive = net.KeepAliveConfig{Enable: true, Idle: lostAfter / 2, Interval: lostAfter / 4, Count: 2}
