// Package backup is the form of a cluster's backup: one file that holds the
// state of the store and the cluster's keys, and that a slot's seed opens.
//
// A fresh key, the backup's own, is sealed to every unlock slot (HPKE). Two keys
// come from it: one seals the keyset, and is known to keyd alone; the other
// seals the state, and is lent to redoubtd, which has the state anyway. What the
// backup says of itself in clear, its facts, is bound into both, and into the
// sealing of the key. docs/formats.md has the bytes.
//
// Two things can be checked of a file. Anybody can check that it is whole: its
// last 32 bytes are a digest of all before them. Who has a slot's seed can check
// that it is genuine as well: each chunk is bound to the head, to its number and
// to whether it is the last.
//
// The package reads and writes; who may, and what is done with it, is keyd's and
// redoubtd's.
package backup
