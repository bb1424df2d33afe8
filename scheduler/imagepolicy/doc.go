// Package imagepolicy decides which images may run: from which registries, named
// how, and signed or described by whom.
//
// A Policy is made of a document that a security admin writes (docs/formats.md,
// "The image policy"). Its rules are looked at in their order, and the first whose
// patterns match the image's repository decides; an image that no rule is for is
// refused. Decide says which rule that is and refuses what needs no evidence to be
// refused. Rule.Verify then judges the evidence: Sigstore bundles (v0.3) whose DSSE
// envelope holds an in-toto statement about the image's digest, signed by a key of
// the policy or under a CA of it. Every refusal names its rule.
//
// Nothing here asks the network or a transparency log, and no time but the one
// given is believed: a certificate counts while it is valid, not because something
// says that it was when it signed. Signatures are verified by the standard library
// (ECDSA with P-256 and SHA-256 or P-384 and SHA-384, Ed25519, RSA of 2048 bits and
// more with PKCS #1 v1.5 and SHA-256) over the envelope's pre-authentication
// encoding.
//
// Both redoubtd, when a service is created, and rund, before a container is made,
// use it, so it imports neither the store nor a registry's client. Documents and
// bundles are untrusted input: both are bounded (limits.go) before they are parsed.
package imagepolicy
