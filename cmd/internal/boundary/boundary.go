// Package boundary has no code: its tests hold the lines between processes and
// between rooms.
//
// A binary's dependency list is the proof of what its process cannot do, so each
// list is committed beside the binary (deps.txt) and a test fails where it
// changes unseen, or reaches a package that the process must never hold.
package boundary
