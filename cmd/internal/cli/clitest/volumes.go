package clitest

import (
	"context"
	"slices"

	"google.golang.org/grpc"

	"github.com/redoubt-cluster/redoubt/cmd/internal/control/apierr"
	"github.com/redoubt-cluster/redoubt/cmd/internal/control/controlpb"
	"github.com/redoubt-cluster/redoubt/internal/ident"
	"github.com/redoubt-cluster/redoubt/raftstore/raftstorepb"
	"github.com/redoubt-cluster/redoubt/scheduler/schedulerpb"
	"github.com/redoubt-cluster/redoubt/scheduler/taskpb"
	"github.com/redoubt-cluster/redoubt/scheduler/volumes"
)

// CreateVolume implements Volumes.
func (n *Node) CreateVolume(_ context.Context, r *controlpb.CreateVolumeRequest) (*controlpb.CreateVolumeResponse, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if err := n.manager(); err != nil {
		return nil, err
	}
	if _, v := n.volume(r.GetSpec().GetName()); v != nil {
		return nil, apierr.Exists("choose another name", "a volume named %q exists already", r.GetSpec().GetName())
	}
	return &controlpb.CreateVolumeResponse{Id: n.addVolume(r.GetSpec())}, nil
}

func (n *Node) addVolume(sp *taskpb.VolumeSpec) string {
	v := &schedulerpb.Volume{Meta: &raftstorepb.Meta{Version: 1, CreatedAt: 1}, Id: ident.New(), Spec: sp}
	n.volumes = append(n.volumes, v)
	return v.GetId()
}

func (n *Node) volume(ref string) (int, *schedulerpb.Volume) {
	for i, v := range n.volumes {
		if v.GetId() == ref || v.GetSpec().GetName() == ref {
			return i, v
		}
	}
	return 0, nil
}

// nameVolumes makes the volumes that a service names.
func (n *Node) nameVolumes(sp *schedulerpb.ServiceSpec) {
	for _, u := range volumes.Uses(sp.GetTask().GetContainer()) {
		if _, v := n.volume(u.GetName()); v == nil {
			n.addVolume(volumes.SpecOf(u))
		}
	}
}

// volumeDetail has data of a volume that a service uses on one node, and of one called
// "left" on a node that is away.
func (n *Node) volumeDetail(v *schedulerpb.Volume) *controlpb.VolumeDetail {
	d := &controlpb.VolumeDetail{Volume: v}
	for _, s := range n.services {
		if slices.ContainsFunc(volumes.Uses(s.GetSpec().GetTask().GetContainer()), func(u *taskpb.VolumeUse) bool { return u.GetName() == v.GetSpec().GetName() }) {
			d.Services = append(d.Services, s.GetSpec().GetName())
			d.Tasks++
		}
	}
	on := func(name string, away bool) {
		d.Nodes = append(d.Nodes, &controlpb.VolumeOnNode{NodeId: ident.New(), NodeName: name, Away: away, Instance: &taskpb.VolumeInstance{Id: v.GetId(), CreatedAt: 1}})
	}
	if len(d.Services) > 0 {
		on("host-a", false)
	}
	if v.GetSpec().GetName() == "left" {
		on("host-b", true)
	}
	return d
}

// StreamVolumes implements Volumes.
func (n *Node) StreamVolumes(r *controlpb.StreamVolumesRequest, s grpc.ServerStreamingServer[controlpb.StreamVolumesResponse]) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	if err := n.manager(); err != nil {
		return err
	}
	page := &controlpb.StreamVolumesResponse{}
	for _, ref := range r.GetVolumes() {
		_, v := n.volume(ref)
		if v == nil {
			return apierr.NotFound("list them with `redoubt volume ls`", "no volume %q", ref)
		}
		page.Volumes = append(page.Volumes, n.volumeDetail(v))
	}
	if len(r.GetVolumes()) == 0 {
		for _, v := range n.volumes {
			page.Volumes = append(page.Volumes, n.volumeDetail(v))
		}
	}
	return s.Send(page)
}

// RemoveVolume implements Volumes.
func (n *Node) RemoveVolume(_ context.Context, r *controlpb.RemoveVolumeRequest) (*controlpb.RemoveVolumeResponse, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if err := n.manager(); err != nil {
		return nil, err
	}
	return n.removeVolume(r.GetVolume())
}

func (n *Node) removeVolume(ref string) (*controlpb.RemoveVolumeResponse, error) {
	i, v := n.volume(ref)
	if v == nil {
		return nil, apierr.NotFound("list them with `redoubt volume ls`", "no volume %q", ref)
	}
	d := n.volumeDetail(v)
	if len(d.GetServices()) > 0 {
		return nil, apierr.New(apierr.ReasonState, "", "volume %s is in use by service %s", v.GetSpec().GetName(), d.GetServices()[0])
	}
	if v.RemovingSince = 1; len(d.GetNodes()) == 0 {
		n.volumes = slices.Delete(n.volumes, i, i+1)
	}
	return &controlpb.RemoveVolumeResponse{Id: v.GetId(), Nodes: d.GetNodes()}, nil
}

// PruneVolumes implements Volumes.
func (n *Node) PruneVolumes(_ context.Context, r *controlpb.PruneVolumesRequest) (*controlpb.PruneVolumesResponse, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if err := n.manager(); err != nil {
		return nil, err
	}
	out := &controlpb.PruneVolumesResponse{Kept: map[string]string{}}
	for _, id := range r.GetVolumes() {
		if _, err := n.removeVolume(id); err != nil {
			out.Kept[id] = apierr.Decode(err).Error()
		} else {
			out.Removed = append(out.Removed, id)
		}
	}
	return out, nil
}
