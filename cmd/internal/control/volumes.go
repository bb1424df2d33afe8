package control

import (
	"context"
	"slices"

	"github.com/redoubt-cluster/redoubt/cmd/internal/control/apierr"
	"github.com/redoubt-cluster/redoubt/cmd/internal/control/controlpb"
	"github.com/redoubt-cluster/redoubt/raftstore"
	"github.com/redoubt-cluster/redoubt/scheduler/schedulerpb"
	schedstore "github.com/redoubt-cluster/redoubt/scheduler/store"
	"github.com/redoubt-cluster/redoubt/scheduler/taskpb"
	"github.com/redoubt-cluster/redoubt/scheduler/volumes"
)

// CreateVolume validates and stores. It warns where no node can have it.
func (s *Server) CreateVolume(ctx context.Context, req *controlpb.CreateVolumeRequest) (*controlpb.CreateVolumeResponse, error) {
	sp := volumes.Complete(req.GetSpec())
	if err := volumes.Check(sp); err != nil {
		return nil, apierr.Invalid("", "%v", err)
	}
	ctx, cancel := context.WithTimeout(ctx, updateTimeout)
	defer cancel()
	id, err := schedstore.CreateVolume(ctx, s.c.Store, sp)
	if err != nil {
		return nil, err
	}
	resp := &controlpb.CreateVolumeResponse{Id: id}
	s.warn(ctx, &resp.Warnings, func(r raftstore.Reader) []string { return volumeWarnings(r, sp) })
	return resp, nil
}

// volumeWarnings names what a volume needs and no node has.
func volumeWarnings(r raftstore.Reader, sp *taskpb.VolumeSpec) (out []string) {
	for _, name := range volumes.Features(sp) {
		able := false
		for n := range schedstore.Nodes.All(r) {
			able = able || slices.ContainsFunc(n.GetDescription().GetFeatures(), func(f *taskpb.Feature) bool { return f.GetName() == name && f.GetPresent() })
		}
		if !able {
			out = append(out, "no node has the feature "+name+", which the volume needs: redoubt node inspect says why")
		}
	}
	return out
}

// StreamVolumes lists the named ones, or all by name.
func (s *Server) StreamVolumes(req *controlpb.StreamVolumesRequest, stream controlpb.Volumes_StreamVolumesServer) error {
	p := &pages[*controlpb.VolumeDetail]{send: func(page []*controlpb.VolumeDetail) error {
		return stream.Send(&controlpb.StreamVolumesResponse{Volumes: page})
	}}
	return p.end(s.view(stream.Context(), func(r *raftstore.ReadTx) error {
		all, err := chosen(r, req.GetVolumes(), schedstore.Volumes.All(r), schedstore.ResolveVolume, func(v *schedulerpb.Volume) string { return v.GetSpec().GetName() })
		if err != nil {
			return err
		}
		uses := schedstore.UsesOfVolumes(r)
		for _, v := range all {
			if err := p.add(volumeDetail(r, v, uses)); err != nil {
				return err
			}
		}
		return nil
	}))
}

func volumeDetail(r raftstore.Reader, v *schedulerpb.Volume, uses *schedstore.VolumeUses) *controlpb.VolumeDetail {
	services, tasks, on := uses.Of(v)
	d := &controlpb.VolumeDetail{Volume: v, Nodes: onNodes(r, v.GetId(), on)}
	for _, svc := range services {
		d.Services = append(d.Services, svc.GetSpec().GetName())
	}
	d.Tasks = uint32(len(tasks))
	return d
}

func onNodes(r raftstore.Reader, id string, nodes []*schedulerpb.Node) (out []*controlpb.VolumeOnNode) {
	for _, n := range nodes {
		out = append(out, &controlpb.VolumeOnNode{NodeId: n.GetId(), NodeName: nodeName(r, n.GetId()), Instance: schedstore.Instance(n, id), Away: !schedstore.Up(n)})
	}
	return out
}

// RemoveVolume has one volume be removed.
func (s *Server) RemoveVolume(ctx context.Context, req *controlpb.RemoveVolumeRequest) (*controlpb.RemoveVolumeResponse, error) {
	resp := &controlpb.RemoveVolumeResponse{}
	return resp, s.update(ctx, func(tx *raftstore.Tx) error {
		v, on, err := schedstore.RemoveVolume(tx, req.GetVolume())
		if err != nil {
			return err
		}
		resp.Id, resp.Nodes = v.GetId(), onNodes(tx, v.GetId(), on)
		return nil
	})
}

// PruneVolumes has those of the named volumes be removed that nothing uses.
func (s *Server) PruneVolumes(ctx context.Context, req *controlpb.PruneVolumesRequest) (*controlpb.PruneVolumesResponse, error) {
	if n := len(req.GetVolumes()); n == 0 || n > maxVolumes {
		return nil, apierr.Invalid("", "%d volumes are named: name 1 to %d, by id", n, maxVolumes)
	}
	seen := map[string]bool{}
	for _, id := range req.GetVolumes() {
		if seen[id] {
			return nil, apierr.Invalid("", "volume %.60q is named twice: name each once", id)
		}
		seen[id] = true
	}
	var resp *controlpb.PruneVolumesResponse
	err := s.update(ctx, func(tx *raftstore.Tx) error {
		resp = &controlpb.PruneVolumesResponse{Kept: map[string]string{}}
		uses := schedstore.UsesOfVolumes(tx)
		for _, id := range req.GetVolumes() {
			v, ok := schedstore.Volumes.Get(tx, id)
			if !ok {
				resp.Kept[id] = "there is no volume of that id"
				continue
			}
			if _, err := uses.Remove(tx, v); err == nil {
				resp.Removed = append(resp.Removed, id)
			} else if !schedstore.IsRefused(err) {
				return err
			} else {
				resp.Kept[id] = err.Error()
			}
		}
		return nil
	})
	return resp, err
}
