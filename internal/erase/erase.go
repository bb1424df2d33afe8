// Package erase has what handles keys leave nothing behind: what f allocates is
// overwritten when it is collected, and its stack and registers when it returns.
//
// Go's libraries copy keys where their callers cannot reach: a KEK lies in the block
// of a hash, a seed in the input that HPKE extracts from. Only the runtime can wipe
// those, and it does so in a build with GOEXPERIMENT=runtimesecret (docs/keys.md).
// In any other build Do calls f and no more. keyd says in its protections which
// one it is.
package erase

import "runtime"

// Now collects, and so overwrites, what calls of Do left. It takes time that grows
// with the heap: it is for what is done seldom.
func Now() {
	if Built {
		runtime.GC()
	}
}
