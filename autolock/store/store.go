// Package store declares the replicated table of the unlock slots. Only
// redoubtd imports it: keyd never reads the replicated store.
//
// The table has one record, with id RecordID: the slot set that every manager's
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
