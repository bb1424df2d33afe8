// Package keyd is the process that holds a manager's keys: the cluster keyset
// (CA keys, record-signing key, secrets master, audit key), the data key of the
// replicated store, and the slots they are sealed to. It runs on every node and
// holds nothing until the node becomes a manager.
//
// It serves two unix sockets: keyd.sock for redoubtd, unlock.sock for root. It
// opens no network socket and never reads the replicated store.
//
// # What it decides by itself
//
// redoubtd is exposed to the network, so its word is not enough. A join is
// signed from a token record that this keyset signed when the token was minted,
// plus the joiner's proof over its own connection; a renewal from the leaf in
// use and a proof by that leaf's key; this manager's own leaf only for the node
// id that the state was made for; the keyset is sealed only to the key that is
// certified in a manager leaf this CA signed and that was not retired. A keyset
// is adopted only with the very root key that is held here, and a higher epoch. The shape of every certificate is
// pki/profile's and is compared after signing. Names, roles and lifetimes are
// never taken from a request for a certificate.
//
// # What it takes on redoubtd's word
//
// That a token may be minted at all, that a worker shall be a manager, who of the
// managers stays when the keyset is rotated, how often a token was used, that a node was
// not removed, that a task of a granted service runs on a node whose rund gets the
// key of a secret, and which slots the operator wants. Those verbs are bounded,
// rate-limited and written to the journal before they are answered. So a
// compromised redoubtd on an unlocked manager can mint a manager token or add a
// slot, and the journal says that it did.
//
// # Data keys
//
// The DEK and the key that seals the manager leaf are renewed together, in two
// steps (dek.go): RotateDEK makes new ones and keeps those before, DropDEK forgets
// them once redoubtd has found nothing under them on its disk. keyd reads no
// store, so that is redoubtd's word; a false one costs this manager its own copy.
//
// # State
//
// EMPTY (no state file), LOCKED (a state file, nothing open), UNLOCKED. There is
// no verb to lock: a keyd that ends is locked, and redoubtd notices. The state is
// one file that is replaced whole, so a crash leaves the old or the new. The KEK
// exists only inside Init, ImportKeyset, Unlock and Reseal; each Reseal makes a
// fresh one. What stays open while unlocked lies in two buffers of locked
// memory. Private keys are parsed for one signature and wiped; what the standard
// library keeps of them on the heap meanwhile is the residual.
//
// The journal is a file of hash-chained lines, which carry a MAC while keyd is
// unlocked. It holds no secret. Cutting off its end is not detected by keyd
// alone, but by the audit log, to which redoubtd brings its lines (ReadJournal).
//
//	s, err := keyd.New(keyd.Config{Dir: dir, ControlUID: uid, Section: section})
//	err = s.Serve(ctx, control, unlock)
package keyd
