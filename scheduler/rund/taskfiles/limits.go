package taskfiles

import "github.com/redoubt-cluster/redoubt/scheduler/places"

const (
	// MaxFiles of one task, and MaxBytes of all of them.
	MaxFiles = places.MaxFiles
	MaxBytes = places.MaxBytes
	// maxName is the kernel's bound of a file name.
	maxName = 255
	// sizeBytes of a task's file system: two generations while one takes the place of
	// the other, rounded up to pages, and the record.
	sizeBytes = 2*MaxBytes + 2*MaxFiles*4096 + (1 << 20)
	// inodes: of two generations with their names, and the directories.
	inodes = 4*MaxFiles + 48
	// maxRecord bounds what is read back of what was put.
	maxRecord = 64 << 10
)
