//go:build redoubt_compromised

package control

// No release has this: a test builds it, to attack nodes with.
const believesAnything = true
