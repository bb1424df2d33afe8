package fabric

import "time"

const (
	// Peers of one node, and what they may be admitted to send: networks that
	// are shared with them, one entry each.
	maxPeers      = 10000
	maxAdmissions = 1 << 18

	// Prefix lengths of the mesh.
	minPrefix, maxPrefix = 8, 30

	// maxKeepalive is longer than any NAT remembers a flow.
	maxKeepalive = 10 * time.Minute

	// WireGuard over IPv6 takes 80 bytes of the underlay's packet, VXLAN 50 of
	// the tunnel's. What is left must hold the 1280 bytes that IPv6 demands.
	tunnelOverhead = 80
	vxlanOverhead  = 50
	minUnderlayMTU = 1280 + vxlanOverhead + tunnelOverhead
	maxUnderlayMTU = 65535 - 20
	// Underlay of a node that knows no route yet.
	defaultUnderlayMTU = 1500

	// Addresses of the node that are told.
	maxUnderlay = 64

	// WireGuard refuses a session older than this: without a handshake in that
	// time, no connection can be alive.
	sessionLife = 180 * time.Second

	// How often the state is compared with the desired one when no change was
	// announced, and the pause after an announcement in which more are gathered.
	repairEvery  = 5 * time.Second
	repairSettle = 50 * time.Millisecond

	// Handshakes that are begun in one go.
	wakeAtOnce = 64

	// How often it is looked whether a peer has begun to use its next key, while
	// one has not, and the least multiple of what looking costs.
	turnEvery  = 10 * time.Millisecond
	turnFactor = 20

	// How often peers that went astray are looked for, and how long one may owe an
	// answer. Looking costs as little of the time as looking for next keys.
	strayEvery   = time.Second
	straySilence = 2 * time.Second

	// maxProofs of a request, and the bytes of what each is for.
	maxProofs, maxProofContext = 16, 512

	// toolTime bounds one conversation with wg.
	toolTime = 2 * time.Second
)
