//go:build !goexperiment.runtimesecret

package erase

// Built says whether the build can overwrite.
const Built = false

// Do runs f.
func Do(f func()) { f() }
