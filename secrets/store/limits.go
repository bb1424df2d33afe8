package store

const (
	// MaxConfigsBytes bounds all configs together: every manager holds them in
	// memory, where they take about twice that, and a store that no machine has
	// room for could not even be opened to remove some.
	MaxConfigsBytes = 128 << 20
	// minConfigWeight is what the smallest config counts for.
	minConfigWeight = 2 << 10
)
