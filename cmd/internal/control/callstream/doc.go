// Package callstream carries many short calls over one stream of gRPC. A stream
// of its own for each call costs both sides more than all that is done for it:
// headers packed and unpacked, a dozen contexts and queues, and a write to the
// socket by itself. Here a call is a few bytes in a message that other calls
// share, and so is its answer.
//
// Nothing else changes. Conn is a client connection like any other: calls with
// one request and one answer take the stream where they can, and everything else
// (streams, large requests, calls with options, the first ones while the
// connection is made, a server that knows no such stream) goes as it always
// did. Serve hands each call to a handler that must judge it as if it had come
// by itself: that it came over the stream says nothing about what it may do.
//
// An answer says which call it is to, so answers come in any order, and a slow
// call holds nobody up. What is under way is bounded on both sides. The caller's
// deadline travels with the call, and who gives up says so; the answer comes all
// the same and is thrown away.
//
// There is no goroutine that writes: who has something to send sends it, and
// whatever others have put down meanwhile.
package callstream
