// Package control holds live checks: what a node promises, read from its real
// state.
//
// A Control reads files, modes, owners, /proc and sockets, and never what a
// configuration says should be there. Run runs many side by side, each within a
// bound: one that takes too long or panics is an error. What could not be read is
// an error, too, and an error is never a pass. No finding quotes what a file
// holds, so that no secret gets into a report.
//
// All of them so far are of the node that they run on, and want root there. Every
// control is bound to a mitigation of the threat model, and has a fixture in the
// tests that makes it, and nothing else, fail.
package control
