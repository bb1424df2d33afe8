// Package port is TCP port 2377 of a manager: one listener, several protocols,
// told apart by the ALPN in the ClientHello.
//
//	h2                gRPC for nodes, and for joiners without a certificate
//	redoubt-raft/1    raft between managers
//	redoubt-leader/1  a follower hands a caller's raw TLS through to the leader
//	redoubt-local/1   gRPC of another manager's local root
//	redoubt-lock/1    gRPC, lock status only
//	redoubt-witness/1 gRPC between managers: how far their disks go
//
// The port peeks at the ClientHello without answering it. What is for this
// manager it shakes hands with and hands out through a net.Listener per
// protocol, each connection knowing its verified peer. An h2 caller who reached
// a follower is not answered at all: its bytes, from the ClientHello on, are
// copied to the leader, which therefore verifies the real caller and sees its
// real address. There is one hop; a spliced connection that finds no leader is
// closed.
//
// A locked manager shows its boot leaf and serves redoubt-lock/1 alone. A
// caller of h2 learns from that leaf that the manager is locked. Unlock and
// Lock switch while the listener stays.
//
// Everything before a peer is known is bounded: connections, handshakes at a
// time, both also by source, the size of the ClientHello, the time a handshake
// takes, and what a caller without a certificate may send. The port does no
// authorization beyond admitting peers; that is for package authz, per call. A
// node that the cluster removed is let in on h2 for a moment, within the bounds
// of a caller without a certificate, to be told so by a refused call.
//
// The package also holds the dialling side: agents to any manager, raft, and a
// manager's local root to the leader.
package port
