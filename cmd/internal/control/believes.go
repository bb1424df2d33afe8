//go:build !redoubt_compromised

package control

// believesAnything is true in the build by which a test shows what a manager that was
// taken over can do.
const believesAnything = false
