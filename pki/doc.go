// Package pki gives nodes their identities and makes connections prove them.
//
// It holds the join token that people carry (Token), the credentials of a
// running node with the TLS configurations made of them (Credentials), both
// ends of joining (Join, JoinServer) and of renewing (Renewer, RenewServer),
// and the transactions that write tokens and node records.
//
// It signs no certificate and holds no key of the cluster. What must be signed
// goes through a Signer, behind which stands keyd, and keyd checks every proof
// again by itself: this package is the part that knows the store, so it alone
// answers for use counts, revocation, source prefixes and removal.
//
// There is no certificate table. A node record names the current and the
// previous leaf by the hash of their key; a renewal moves them along, a removal
// marks the record denied for ever. Chains are verified against the trusted
// roots and the active issuers only; whatever other certificates a peer sends
// are not used to build a path.
//
// Every TLS configuration here is TLS 1.3 with X25519MLKEM768 and without
// session tickets, so each connection is a full, post-quantum handshake in
// which the peer's key was used.
package pki
