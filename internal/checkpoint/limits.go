package checkpoint

const (
	// maxText bounds a checkpoint without its signatures, and MaxNote one with them.
	maxText = 512
	MaxNote = 64 << 10
	// maxKey bounds a written key.
	maxKey = 512
	// MaxKeys bounds the keys that a checkpoint is held against.
	MaxKeys = 1024
	// MaxWitnessName bounds the name of a witness's key, in bytes.
	MaxWitnessName = 128
)
