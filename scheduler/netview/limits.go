package netview

const (
	// PeerPort is where the redoubtds of two nodes talk to each other.
	PeerPort = 7946

	// What one node is told at most. Networks beyond it, in the order of their
	// ids, are left out, and that is logged: a node with that many is a mistake.
	MaxNetworks = 2048
	// MaxPublished is how many ingress networks it is told of besides, as an entry
	// node: more than services can have published ports.
	MaxPublished = 4096
	MaxEndpoints = 1 << 16

	// maxBytes is what one message has, about; a larger set goes on in the next.
	// It leaves room within the 4 MiB that gRPC receives for the rules of one
	// network, which are never divided.
	maxBytes = 1 << 20

	// maxJournal is how many changes of a network are kept, besides two for each
	// endpoint. A node that missed more is told everything.
	maxJournal = 1024

	// maxRecent is how many changes of networks are kept in all, by which a node
	// finds those that matter to it without a look at each of its networks.
	maxRecent = 4096
)
