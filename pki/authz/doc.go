// Package authz decides who may call what.
//
// Each RPC declares its callers in its .proto, with the option
// redoubt.authz.v1.rule. The interceptors of an Authorizer read that option
// from the method's descriptor; a method without one is refused to everybody,
// and CheckAll finds such a method before a server starts. There is no list of
// methods anywhere else.
//
// An RPC that operators may call declares beside them what it does, in verbs, and
// which field of the request names what it is done to. ActsOf reads it from a
// request, and the Judge says whether the caller may: on the node that answers, once
// the request is read. Without a verb such an RPC is refused to everybody, too.
//
// Who the caller is comes from the connection alone, never from metadata:
//
//   - on port 2377, from the verified certificate of a TLS connection and the
//     ALPN it chose. The certificate's role counts only while the node's record
//     is present, not denied, of the same role, and names that certificate's
//     key as the current or the previous one. So it is with a person's certificate
//     and record, on a protocol of their own;
//   - on a local socket, from the kernel: uid 0 and nobody else.
//
// The record is looked up at every call. For streams that outlive their first
// check, Run follows the records and cuts a stream, and the connection under
// it, as soon as its caller would no longer be admitted. A stream also ends
// when its certificate does.
//
// The package makes no connection and verifies no chain: a server hands it
// connections (Conn) whose handshake and chain were verified by package pki.
package authz
