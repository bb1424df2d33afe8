package profile

import "time"

const (
	// MaxCSR bounds a certificate request in DER. A keyd key is 1216 bytes;
	// the rest of a request is about 250.
	MaxCSR = 4096

	// MaxCert bounds one certificate in DER.
	MaxCert = 8192

	// MaxChain bounds the certificates of a chain: leaf, issuer, root, and MaxCross
	// certificates of that root by those before it.
	MaxChain = 3 + MaxCross
	MaxCross = 3

	// MaxFormer bounds the issuing CAs, roots and cross certificates of before that a
	// keyset and the cluster's record remember, the same in both: what keyd certified
	// below one is to be believed as long as keyd goes by it.
	MaxFormer = 8

	// MaxTokenRecord bounds a serialized token record.
	MaxTokenRecord = 1024

	// Backdate is how far NotBefore lies before the issue, so that a node
	// whose clock is a little slow accepts a fresh certificate.
	Backdate = 5 * time.Minute

	// MaxSkew is how far in the future a token may seem to have been minted.
	MaxSkew = Backdate

	// LeafLife is the life of a leaf unless the operator chose another.
	LeafLife = 24 * time.Hour

	// BootLeafLife is the life of a boot leaf: a manager that was away for
	// long must still be able to say that it is locked.
	BootLeafLife = 365 * 24 * time.Hour

	// MaxLeafLife bounds the life of a worker or manager leaf.
	MaxLeafLife = 90 * 24 * time.Hour
)
