package seal

const (
	// MaxSecret bounds the plaintext of a secret in bytes, as Swarm does.
	MaxSecret = 500 << 10

	// DataOverhead is by how many bytes sealed data is longer: nonce and tag.
	DataOverhead = 12 + 16

	// SealedKeyLen is the length of a sealed key: encapsulation, key, tag.
	SealedKeyLen = 1120 + keyLen + 16

	// MaxStatement bounds a statement of a rund in bytes.
	MaxStatement = 2 << 10

	keyLen = 32
)
