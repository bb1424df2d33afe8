// Package profile owns the shape of everything that is signed about a node:
// its certificates, the requests for them, join token records, and the byte
// strings over which joins and renewals are proved. docs/formats.md is its
// specification.
//
// Both sides of a signature use it: keyd, which holds the keys and trusts
// nobody's word, and redoubtd, which checks what it was given before using it.
// It is therefore a leaf: it knows no store, no network and no key, and
// everything in it is a function of its arguments.
//
// There is exactly one shape of node certificate. LeafTemplate makes it,
// CheckLeaf accepts nothing else: an unknown extension, a second name or a
// longer life is an error, never ignored. A certificate request carries a
// public key and at most the node's keyd key; who the node is and what it may
// do is never taken from the request.
//
// A person's certificate has another shape (PersonTemplate, PersonFromCert): what
// takes the one refuses the other.
//
// The package does not verify chains, does not know which roots are trusted,
// and does not decide policy such as how long a token may live; it says only
// whether a thing is well formed and what it claims.
package profile
