package volume

const (
	// MaxVolumes bounds those of a node: its description has them all.
	MaxVolumes = 1024
	// maxRecord bounds a volume's record in bytes.
	maxRecord = 64 << 10
	// What is copied of an image into a volume: entries in all, and how deep.
	maxEntries = 1 << 20
	maxDepth   = 256
	// What a sweep has in memory: names of a directory, and directories to delete next.
	sweepBatch = 256
	maxTodo    = 1024
	// maxSaid bounds what is said of an error, in bytes.
	maxSaid = 200
)
