package store

import (
	"github.com/redoubt-cluster/redoubt/raftstore"
	"github.com/redoubt-cluster/redoubt/scheduler/schedulerpb"
)

// PutNew makes a service as CreateAdmitted does, of a spec that may be on
// networks.
func PutNew(tx *raftstore.Tx, id string, sp *schedulerpb.ServiceSpec) error {
	sp, vips, err := attach(tx, id, sp, nil)
	if err != nil {
		return err
	}
	return Services.Put(tx, &schedulerpb.Service{Id: id, Spec: sp, Revision: 1, Vips: vips})
}

// Permitted is permitted.
var Permitted = permitted
