// Package keydclient speaks to keyd over its unix sockets: redoubtd over
// keyd.sock, the CLI's unlock over unlock.sock.
//
// There is one method for each verb. An answer that is a refusal comes back as
// an *Error, which carries keyd's code:
//
//	if keydclient.CodeOf(err) == keydpb.Code_CODE_LOCKED { … }
//
// Calls share one connection and take turns. WaitUnlocked and Watch, which
// block for as long as keyd likes, each open a connection of their own.
//
// A key that keyd lends out must be given up when keyd is lost. So redoubtd
// opens a Watch first, then calls OpenStore, and wipes what it got when
// Watch.Wait returns: a keyd that dies at any instant in between is noticed.
package keydclient
