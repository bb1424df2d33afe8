// Package autolock owns what a manager's disk is sealed with: the operator key
// that opens a manager, the slots its key-encryption key (KEK) is sealed to,
// and the format of every sealed record. docs/formats.md is its specification.
//
// The hierarchy, from the top:
//
//	operator key ──HPKE──▶ KEK ──AEAD──▶ cluster keyset, data key (DEK), manager leaf
//	                                        DEK ──AEAD──▶ log, stable store, snapshots
//
// A slot is an HPKE recipient, so anyone may seal to it and only the holder of
// the seed opens it: adding or replacing a slot needs no old credential. The
// operator key is the first kind of slot. Its seed exists on paper and, for
// the length of one call, in the CLI and in keyd; it is shown once and there
// is no function that finds it again.
//
//	key := autolock.NewOperatorKey()
//	fmt.Println(key.String())            // once, to the operator
//	slot := key.Slot()                   // what the cluster keeps
//
// A Sealer is what the replicated store sees of all this: Seal, Open and Name,
// never a key.
//
// This package holds no state, opens no socket and writes no file. Package
// autolock/keyd is the process that holds the keys; autolock/keydclient speaks
// to it; autolock/store is the replicated table of slots.
//
// What Go cannot promise: keys are wiped where this package made the copy, but
// the expanded AES key of a Sealer and the halves of an HPKE key live on the
// garbage-collected heap until they are collected. keyd keeps the originals in
// locked memory.
package autolock
