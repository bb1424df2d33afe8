// Package control holds live checks: what nodes and a cluster promise, read from their
// real state.
//
// Controls of a node read files, modes, owners, /proc and sockets on its machine, as
// root there, and never what a configuration says should be there. Those of the
// cluster and its services judge a Cluster: facts that the leader's store has, and
// what it measured and was answered. They do no more than compare, and whoever fills
// a Cluster in does not.
//
// Run and RunCluster run many side by side, each within a bound: one that takes too
// long or panics is an error. What could not be read is an error, too, and an error
// is never a pass; nor is what is not there at all, which is not applicable. No
// finding quotes what a file holds, so that no secret gets into a report.
//
// Every control is bound to a mitigation of the threat model, and has a fixture in
// the tests that makes it, and nothing else, fail.
package control
