package pools

const (
	// maxPools is more than managers tell: two of each network, and their own.
	maxPools = 16384
	// One that is larger would be a good part of the world.
	minBits, minBits6 = 8, 16
	// Elements in one nftables message: an attribute's length is 16 bits.
	maxElementsPerMessage = 256
)
