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

	// What netd accepts: published ports of one endpoint, those of all,
	// endpoints, and addresses of managers. It refuses a whole declaration
	// beyond them, so they are kept here, where only the one too many suffers.
	maxPorts      = 64
	maxTotalPorts = 4096
	maxEndpoints  = 1000
	maxManagers   = 64

	// maxMACTries bounds the search for a free hardware address.
	maxMACTries = 64

	// strayedEvery is how often the log has what containers sent to nodes in vain.
	strayedEvery = time.Minute

	// callTimeout bounds one exchange with netd, the longest of which builds
	// every endpoint of the node.
	callTimeout = 60 * time.Second
)
