package render

const (
	// MaxBytes bounds a template, and what becomes of it: 1000 KiB, as any config.
	MaxBytes = 1000 << 10
	// maxActions bounds what stands between braces, and maxActionBytes one of them:
	// there are no loops, so both bound the time that a template takes.
	maxActions     = 4096
	maxActionBytes = 4096
	// maxDepth bounds how deep actions and parentheses lie in each other.
	maxDepth = 64
	// maxSecrets bounds the secrets that one template names.
	maxSecrets = 64
)
