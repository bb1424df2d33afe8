package store

const (
	// MaxConfigsBytes bounds all configs together: every manager holds them in
	// memory, where they take about twice that, and a store that no machine has
	// room for could not even be opened to remove some.
	MaxConfigsBytes = 128 << 20
	// MaxSecretsBytes bounds all versions of all secrets together, likewise.
	MaxSecretsBytes = 128 << 20
	// minConfigWeight is what the smallest config or version counts for.
	minConfigWeight = 2 << 10
)
