package node

import (
	"cmp"
	"context"
	"errors"
	"io/fs"
	"slices"

	"github.com/redoubt-cluster/redoubt/pki/profile/profilepb"
	pkistore "github.com/redoubt-cluster/redoubt/pki/store"
	"github.com/redoubt-cluster/redoubt/raftstore"
)

// otherManager is a manager that this one knew when it last was open. A removed
// one is not among them.
type otherManager struct {
	ID      string `json:"id"`
	Name    string `json:"name"`
	Address string `json:"address"`
}

// othersName is the file of the other managers, which is readable while this one is
// locked: by it shares that are typed here find the others.
const othersName = "managers"

// others are what that file says; none where there is no such file.
func (d disk) others() (out []otherManager, err error) {
	if err := d.load(othersName, &out); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	return out, nil
}

// keepOthers writes down who the other managers are, when that changes.
func (m *managerState) keepOthers(context.Context) (done bool, err error) {
	var now []otherManager
	self := m.n.who().NodeID
	if err := m.store.View(func(r *raftstore.ReadTx) error {
		for node := range pkistore.Nodes.By(r, "role", "manager") {
			if node.GetId() != self && !node.GetDenied() && node.GetRole() == profilepb.Role_ROLE_MANAGER {
				now = append(now, otherManager{node.GetId(), node.GetName(), node.GetAddress()})
			}
		}
		return nil
	}); err != nil {
		return false, err
	}
	slices.SortFunc(now, func(a, b otherManager) int { return cmp.Compare(a.ID, b.ID) })
	// One that cannot be read is written anew.
	if was, err := m.n.disk.others(); err == nil && slices.Equal(was, now) {
		return true, nil
	}
	if err := m.n.disk.save(othersName, now); err != nil {
		m.n.log.Error("who the other managers are was not written down", "err", err)
		return false, nil
	}
	return true, nil
}
