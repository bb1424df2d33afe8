package mesh

import "time"

const (
	// minBits and maxBits bound the node bridge's prefix length: more than
	// 65,533 endpoints on one bridge help nobody, and below /29 there is no
	// room worth having beside the bridge's own address.
	minBits = 16
	maxBits = 29

	// maxDNS is how many name servers a resolver reads from resolv.conf.
	maxDNS = 3

	// maxPorts bounds the published ports of one endpoint.
	maxPorts = 256

	// maxEndpoints bounds one declaration to netd; it keeps a frame well
	// below wire.MaxFrame.
	maxEndpoints = 4096

	// maxMACTries bounds the search for a free hardware address.
	maxMACTries = 64

	// callTimeout bounds one exchange with netd, the longest of which builds
	// every endpoint of the node.
	callTimeout = 60 * time.Second
)
