package authz

import "time"

const (
	// ExpiredGrace is for how long after its leaf expired a worker may still
	// renew it; after that it needs a new token.
	ExpiredGrace = 30 * 24 * time.Hour
)

// ALPN names of port 2377 that carry gRPC.
const (
	ALPNGRPC  = "h2"
	ALPNLocal = "redoubt-local/1"
	ALPNLock  = "redoubt-lock/1"
	// ALPNUser is by which a manager carries calls of its machine's users.
	ALPNUser = "redoubt-user/1"
	// ALPNPerson is people's, and no node's.
	ALPNPerson = "redoubt-person/1"
	// ALPNWitness is between managers, as raft is.
	ALPNWitness = "redoubt-witness/1"
)

// ALPNPeer is between the nodes of a mesh, on a port of its own: no gRPC.
const ALPNPeer = "redoubt-peer/1"
