package backup

const (
	// chunkBytes is the plaintext of one sealed chunk.
	chunkBytes = 64 << 10
	// maxHead bounds the head: slots, sealed keys and the sealed keyset.
	maxHead = 192 << 10
	// maxKeyset bounds the sealed keyset in it.
	maxKeyset = 64 << 10
)
