// Package authority replaces the cluster's certificate authorities: the issuing
// CA by itself when it is old, and the root when an operator asks for it.
//
// It runs on the leader and keeps nothing. A step has keyd make the next keyset,
// which changes nothing, and commits it in one transaction together with what the
// cluster record says of it: before that the step has not begun, after it it is
// done. So a leader that dies in between is replaced by one that looks at the
// record and goes on, and an operator's command is no part of it once it began.
//
// Which step is due follows from the record and from what nodes are seen to do: a
// phase ends when every node that is there has done its part. Who is away is not
// waited for: cross certificates lead it to the new root, and its old certificate
// is good for a renewal for as long as its record names it. Package pki has the
// transactions, docs/decisions/0084 the reasons.
package authority
