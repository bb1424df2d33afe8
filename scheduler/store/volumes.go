package store

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"

	"google.golang.org/protobuf/proto"

	"github.com/redoubt-cluster/redoubt/internal/ident"
	"github.com/redoubt-cluster/redoubt/raftstore"
	"github.com/redoubt-cluster/redoubt/raftstore/resolve"
	"github.com/redoubt-cluster/redoubt/scheduler/schedulerpb"
	"github.com/redoubt-cluster/redoubt/scheduler/taskpb"
	"github.com/redoubt-cluster/redoubt/scheduler/volumes"
)

// Volumes has the unique index "name". Which nodes have data of one stands in their
// descriptions: see Holders.
var Volumes = raftstore.NewTable("volumes", raftstore.Index[*schedulerpb.Volume]{
	Name: "name", Unique: true,
	Keys: func(v *schedulerpb.Volume) []string { return []string{v.GetSpec().GetName()} },
}).Summing(raftstore.Sum[*schedulerpb.Volume]{Name: sumVolumes, Of: func(*schedulerpb.Volume) (string, raftstore.Amounts) {
	return sumVolumes, raftstore.Amounts{1}
}})

const (
	sumVolumes = "volumes"
	// maxVolumes bounds them. Those that are made at the same moment may exceed it by
	// what they are.
	maxVolumes = 8192
)

// CreateVolume stores a volume. No node has anything of it before a task uses it.
func CreateVolume(ctx context.Context, s *raftstore.Store, sp *taskpb.VolumeSpec) (id string, err error) {
	sp = volumes.Complete(sp)
	if err := volumes.Check(sp); err != nil {
		return "", refuse("%v", err)
	}
	if err := roomForVolumes(s); err != nil {
		return "", err
	}
	id = ident.New()
	err = s.Update(ctx, func(tx *raftstore.Tx) error {
		if old, ok := volumeNamed(tx, sp.GetName()); ok && old.GetRemovingSince() != 0 {
			return beingRemoved(tx, old)
		}
		return Volumes.Put(tx, &schedulerpb.Volume{Id: id, Spec: sp})
	})
	if dup := (*raftstore.DuplicateError)(nil); errors.As(err, &dup) && dup.Index == "name" {
		return "", fmt.Errorf("a volume named %q exists already: choose another name: %w", sp.GetName(), err)
	}
	return id, err
}

// roomForVolumes refuses where there are as many as there may be.
func roomForVolumes(s *raftstore.Store) error {
	return s.View(func(r *raftstore.ReadTx) error {
		if n := Volumes.Total(r, sumVolumes, sumVolumes)[0]; n >= maxVolumes {
			return refuse("there are %d volumes, as many as there may be: remove some (redoubt volume prune)", n)
		}
		return nil
	})
}

// roomForNamed is roomForVolumes for a service that may make some.
func roomForNamed(s *raftstore.Store, sp *schedulerpb.ServiceSpec) error {
	if len(volumes.Uses(sp.GetTask().GetContainer())) == 0 {
		return nil
	}
	return roomForVolumes(s)
}

// ResolveVolume finds a volume by id, name or unique prefix of its id, in this order.
func ResolveVolume(r raftstore.Reader, ref string) (*schedulerpb.Volume, error) {
	return resolve.Named("volume", Volumes, r, ref)
}

// volumeNamed finds a volume by its name alone, as a node compares it.
func volumeNamed(r raftstore.Reader, name string) (*schedulerpb.Volume, bool) {
	for v := range Volumes.By(r, "name", name) {
		return v, true
	}
	return nil, false
}

// VolumeID is the id of the volume of that name; empty: there is none.
func VolumeID(r raftstore.Reader, name string) string {
	v, _ := volumeNamed(r, name)
	return v.GetId()
}

// VolumesOf are those that a container of that specification has, for its node. One that
// is not there is left out.
func VolumesOf(r raftstore.Reader, c *taskpb.ContainerSpec) (out []*taskpb.Volume) {
	for _, u := range volumes.Uses(c) {
		if v, ok := volumeNamed(r, u.GetName()); ok {
			out = append(out, &taskpb.Volume{Id: v.GetId(), Spec: v.GetSpec()})
		}
	}
	return out
}

// nameVolumes makes those that a service names and that are not there, and has a removal
// of the others that goes on meanwhile fail.
func nameVolumes(tx *raftstore.Tx, serviceID string, sp *schedulerpb.ServiceSpec) error {
	for _, u := range volumes.Uses(sp.GetTask().GetContainer()) {
		v, ok := volumeNamed(tx, u.GetName())
		if !ok {
			if err := Volumes.Put(tx, &schedulerpb.Volume{Id: ident.New(), Spec: volumes.SpecOf(u), ServiceId: serviceID}); err != nil {
				return err
			}
			continue
		}
		if v.GetRemovingSince() != 0 {
			return beingRemoved(tx, v)
		}
		if why := volumes.Differs(v.GetSpec(), u); why != "" {
			return refuse("volume %s is there already, and %s: leave driver and options out, or use another name", u.GetName(), why)
		}
		if err := Volumes.Put(tx, proto.CloneOf(v)); err != nil {
			return err
		}
	}
	return nil
}

// volumeIDs are the ids of the volumes that a service has, by name.
func volumeIDs(r raftstore.Reader, sp *schedulerpb.ServiceSpec) map[string]string {
	out := map[string]string{}
	for _, v := range VolumesOf(r, sp.GetTask().GetContainer()) {
		out[v.GetSpec().GetName()] = v.GetId()
	}
	return out
}

// sameVolumes refuses a former spec that names other data than it did: nobody who could
// be asked gives it to the service.
func sameVolumes(r raftstore.Reader, rec *schedulerpb.ServiceSpecRecord) error {
	for _, u := range volumes.Uses(rec.GetSpec().GetTask().GetContainer()) {
		v, ok := volumeNamed(r, u.GetName())
		switch {
		case !ok:
			return refuse("volume %s, which specification %d has, was removed: go back by hand to have it begin empty", u.GetName(), rec.GetNumber())
		case v.GetId() != rec.GetVolumes()[u.GetName()]:
			return refuse("volume %s is not the one that specification %d had, which was removed: go back by hand to have it use this one", u.GetName(), rec.GetNumber())
		}
	}
	return nil
}

func beingRemoved(r raftstore.Reader, v *schedulerpb.Volume) error {
	nodes := Holders(r, v.GetId())
	if len(nodes) == 0 {
		return refuse("volume %s is being removed: try again in a moment", v.GetSpec().GetName())
	}
	on := cmp.Or(nodes[0].GetDescription().GetHostname(), nodes[0].GetId())
	if more := len(nodes) - 1; more > 0 {
		on = fmt.Sprintf("%s and %d more", on, more)
	}
	return refuse("volume %s is being removed, and is still on %s: try again when it is gone, or use another name", v.GetSpec().GetName(), on)
}

// Holders are the nodes that say they have data of a volume, by id.
func Holders(r raftstore.Reader, id string) (out []*schedulerpb.Node) {
	for n := range Nodes.All(r) {
		if Instance(n, id) != nil {
			out = append(out, n)
		}
	}
	slices.SortFunc(out, func(a, b *schedulerpb.Node) int { return cmp.Compare(a.GetId(), b.GetId()) })
	return out
}

// Instance is what a node says of its data of a volume; nil: it has none.
func Instance(n *schedulerpb.Node, id string) *taskpb.VolumeInstance {
	for _, i := range n.GetDescription().GetVolumes().GetInstances() {
		if i.GetId() == id {
			return i
		}
	}
	return nil
}

// VolumeUses is who uses volumes, and where data of them is, as of one moment.
type VolumeUses struct {
	services map[string][]*schedulerpb.Service // by the volume's name
	tasks    map[string][]*schedulerpb.Task
	holders  map[string][]*schedulerpb.Node // by the volume's id
}

// UsesOfVolumes looks at everything once, for whoever asks for many volumes.
func UsesOfVolumes(r raftstore.Reader) *VolumeUses {
	u := &VolumeUses{services: map[string][]*schedulerpb.Service{}, tasks: map[string][]*schedulerpb.Task{}, holders: map[string][]*schedulerpb.Node{}}
	for s := range Services.All(r) {
		for _, name := range volumesOfService(r, s) {
			u.services[name] = append(u.services[name], s)
		}
	}
	for rev := range Revisions.All(r) {
		uses := volumes.Uses(rev.GetSpec().GetContainer())
		if len(uses) == 0 {
			continue
		}
		for t := range OfService(r, rev.GetServiceId()) {
			if RevisionID(t.GetServiceId(), t.GetRevision()) != rev.GetId() || !Live(t) {
				continue
			}
			for _, v := range uses {
				u.tasks[v.GetName()] = append(u.tasks[v.GetName()], t)
			}
		}
	}
	for n := range Nodes.All(r) {
		for _, i := range n.GetDescription().GetVolumes().GetInstances() {
			u.holders[i.GetId()] = append(u.holders[i.GetId()], n)
		}
	}
	return u
}

// volumesOfService are the names of the volumes that its spec names, or the one that it
// goes back to where its update fails.
func volumesOfService(r raftstore.Reader, s *schedulerpb.Service) (out []string) {
	specs := []*schedulerpb.ServiceSpec{s.GetSpec()}
	if st := s.GetUpdateStatus(); unproven(st) {
		if rec, ok := SpecRecords.Get(r, RecordID(s.GetId(), st.GetFrom())); ok {
			specs = append(specs, rec.GetSpec())
		}
	}
	for _, sp := range specs {
		for _, u := range volumes.Uses(sp.GetTask().GetContainer()) {
			if !slices.Contains(out, u.GetName()) {
				out = append(out, u.GetName())
			}
		}
	}
	return out
}

// Of is who uses a volume: services whose specification names it, or the one that they may go
// back to, by name, tasks that may
// have a container with it, also of services that are gone, and the nodes that say they
// have data of it, by id.
func (u *VolumeUses) Of(v *schedulerpb.Volume) (services []*schedulerpb.Service, tasks []*schedulerpb.Task, on []*schedulerpb.Node) {
	services, tasks, on = u.services[v.GetSpec().GetName()], u.tasks[v.GetSpec().GetName()], u.holders[v.GetId()]
	slices.SortFunc(services, func(a, b *schedulerpb.Service) int { return cmp.Compare(a.GetSpec().GetName(), b.GetSpec().GetName()) })
	slices.SortFunc(on, func(a, b *schedulerpb.Node) int { return cmp.Compare(a.GetId(), b.GetId()) })
	return services, tasks, on
}

// unused refuses where somebody uses a volume.
func (u *VolumeUses) unused(v *schedulerpb.Volume) error {
	services, tasks, _ := u.Of(v)
	switch {
	case len(services) == 1:
		return refuse("volume %s is in use by service %s: remove the service, or take it from the service first", v.GetSpec().GetName(), services[0].GetSpec().GetName())
	case len(services) > 1:
		return refuse("volume %s is in use by %d services, of which one is %s: remove them, or take it from them first", v.GetSpec().GetName(), len(services), services[0].GetSpec().GetName())
	case len(tasks) > 0:
		return refuse("task %s still has volume %s, and is stopping: try again when it has", tasks[0].GetId(), v.GetSpec().GetName())
	}
	return nil
}

// RemoveVolume has a volume be removed, and returns the nodes that are to delete its data
// first; none: it is gone. It is refused while a service or a task uses it. What is being
// removed stays until every node that had data of it says that it has none, or is gone
// itself: its name is not given to other data before.
func RemoveVolume(tx *raftstore.Tx, ref string) (v *schedulerpb.Volume, on []*schedulerpb.Node, err error) {
	if v, err = ResolveVolume(tx, ref); err != nil {
		return nil, nil, err
	}
	on, err = UsesOfVolumes(tx).Remove(tx, v)
	return v, on, err
}

// Remove is RemoveVolume, of who uses volumes as of tx.
func (u *VolumeUses) Remove(tx *raftstore.Tx, v *schedulerpb.Volume) (on []*schedulerpb.Node, err error) {
	if err := u.unused(v); err != nil {
		return nil, err
	}
	if _, _, on = u.Of(v); len(on) == 0 {
		return nil, Volumes.Delete(tx, v.GetId())
	}
	if v.GetRemovingSince() != 0 {
		return on, nil
	}
	v = proto.CloneOf(v)
	v.RemovingSince = tx.Now().UnixNano()
	return on, Volumes.Put(tx, v)
}

// ToRemove are the ids of volumes whose data a node has and is to delete, sorted.
func ToRemove(r raftstore.Reader, n *schedulerpb.Node) (out []string) {
	for _, i := range n.GetDescription().GetVolumes().GetInstances() {
		if v, ok := Volumes.Get(r, i.GetId()); ok && v.GetRemovingSince() != 0 {
			out = append(out, i.GetId())
		}
	}
	slices.Sort(out)
	return out
}

// forgetVolumes deletes what is being removed and was last on a node that had these, and
// has others now.
func forgetVolumes(tx *raftstore.Tx, had, has *schedulerpb.NodeVolumes) error {
	for _, i := range had.GetInstances() {
		if slices.ContainsFunc(has.GetInstances(), func(o *taskpb.VolumeInstance) bool { return o.GetId() == i.GetId() }) {
			continue
		}
		v, ok := Volumes.Get(tx, i.GetId())
		if !ok || v.GetRemovingSince() == 0 || len(Holders(tx, v.GetId())) > 0 {
			continue
		}
		if err := Volumes.Delete(tx, v.GetId()); err != nil {
			return err
		}
	}
	return nil
}
