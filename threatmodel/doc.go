// Package threatmodel holds what could go wrong with Redoubt as data, and what
// shows that it does not.
//
// threats.yaml lists zones of trust, what runs in them and speaks across them,
// what is worth attacking, the threats, the mitigations and what is not promised.
// Every mitigation is bound to tests, by package and name, and to controls, which
// are live checks of a cluster, by id. Parse reads the file strictly. Check finds
// what does not fit together: a reference to nothing, an id given twice, what
// nothing refers to, a review that is due. CheckTests finds tests that do not
// exist, CheckRan those that did not pass in the run whose results it is given.
// Markdown and OTM are the same model for people and for tools; their output is
// committed, and a test fails where it is stale.
//
// The package judges no running cluster, and nothing that a user may write: the
// file is Redoubt's own. It is linked into no daemon.
package threatmodel
