package autolock

import "time"

const (
	// KeyLen is the length of a KEK, a DEK and a slot's seed in bytes.
	KeyLen = 32

	// MaxSlots bounds a slot set: several operator keys, shares, a TPM, and
	// autolock off.
	MaxSlots = 16

	// MaxShares bounds the shares of one slot, and MinThreshold is the fewest
	// that may open it: one would be an operator key.
	MaxShares    = 32
	MinThreshold = 2

	// Registers is how many a TPM has (PCR).
	Registers = 24

	// maxReleaseNetworks bounds the networks in which managers release each other.
	maxReleaseNetworks = 16

	// DefaultWithin is for how long after it was last heard a manager is released
	// where a slot does not say; a slot may say between the others.
	DefaultWithin        = 15 * time.Minute
	minWithin, maxWithin = time.Minute, 7 * 24 * time.Hour

	// MaxLabel bounds the label of a sealed stream in bytes.
	MaxLabel = 32

	// How many records are sealed under one salt. A counter never repeats, so its
	// bound is what docs/formats.md promises and not what AES-GCM could bear. Drawn
	// nonces may: SP 800-38D allows 2^32 of them, at which the odds are 2^-33.
	maxCountedRecords = 1 << 32
	maxDrawnRecords   = 1 << 24

	// maxOpenKeys bounds the derived keys a Sealer keeps for opening. A data
	// directory holds records of as many salts as there were process starts
	// since the last compaction.
	maxOpenKeys = 64

	// maxKeyText bounds what ParseOperatorKey and ParseShare look at.
	maxKeyText = 256
)
