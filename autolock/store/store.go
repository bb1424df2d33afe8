// Package store declares the replicated tables of the unlock slots, of rotated
// keysets, which are sealed to keyds, and of what managers were asked to renew.
// Only redoubtd imports it: keyd never reads the replicated store.
//
// Slots has one record, with id RecordID: the slot set that every manager's
// keyd seals its KEK to. A rotation commits a set of a higher epoch first, then
// each manager's redoubtd hands it to its keyd.
package store

import (
	"github.com/redoubt-cluster/redoubt/autolock/autolockpb"
	"github.com/redoubt-cluster/redoubt/raftstore"
)

// RecordID is the id of the only record.
const RecordID = "slots"

// Slots is the table.
var Slots = raftstore.NewTable[*autolockpb.SlotRecord]("slots")

// Keysets holds, for each manager that stayed at the last rotation, the newest
// keyset as it was sealed to that manager's keyd.
var Keysets = raftstore.NewTable[*autolockpb.KeysetRecord]("keysets")

// StoreKeys holds, for each manager that was asked to renew the key of its store,
// the epoch that is wanted.
var StoreKeys = raftstore.NewTable[*autolockpb.StoreKeyOrder]("store_keys")

// Releases holds, for each manager that others released, by which ticket.
var Releases = raftstore.NewTable[*autolockpb.Release]("releases")

// Tables lists them for raftstore.Config.
func Tables() []raftstore.Registered {
	return []raftstore.Registered{Slots, Keysets, StoreKeys, Releases}
}
