// Package roles decides what operators may do: who is bound to which role, what
// the roles permit, and what policies add or forbid.
//
// A role is a set of verbs; those built in are Cedar text in this package, others
// are in the store. A binding gives a principal a role, for everything or for what
// has certain labels. Policies are Cedar documents beside the roles. Set is all of
// that, compiled: it says for one principal, one verb and one resource yes or no,
// and which roles and policies say so. An Engine is the authz.Judge that asks the
// set made of what is in the store now.
//
// What is written is strict: a document that does not parse, that speaks of
// verbs, kinds, labels or roles that are none, or that leaves nobody who could
// change roles and policies, is refused. What may be done is the same on every
// manager, and is decided on the leader alone.
//
// The package does not know who calls (package authz does), nor what a verb does.
package roles
