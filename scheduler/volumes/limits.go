package volumes

const (
	// MaxSpecBytes bounds all of a volume's spec: managers have those of all volumes in
	// memory.
	MaxSpecBytes = 4 << 10
	// MaxSubpath bounds what of a volume is mounted.
	MaxSubpath = 1024
	// What a volume may be bounded to, in bytes.
	MinSize = 1 << 20
	MaxSize = 1 << 54
)
