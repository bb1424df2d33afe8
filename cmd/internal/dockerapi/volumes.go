package dockerapi

import (
	"context"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/moby/moby/api/types/volume"

	"github.com/redoubt-cluster/redoubt/cmd/internal/control/apierr"
	"github.com/redoubt-cluster/redoubt/cmd/internal/control/controlpb"
	"github.com/redoubt-cluster/redoubt/scheduler/schedulerpb"
	"github.com/redoubt-cluster/redoubt/scheduler/taskpb"
	"github.com/redoubt-cluster/redoubt/scheduler/volumes"
)

// Volumes are the cluster's: a name, and data on the nodes that had tasks with it. What
// Docker calls their place on the host is none.

func toVolume(d *controlpb.VolumeDetail) volume.Volume {
	sp := d.GetVolume().GetSpec()
	out := volume.Volume{Name: sp.GetName(), Driver: sp.GetDriver(), Scope: "local", Labels: labels(sp.GetLabels()), Options: labels(sp.GetOptions()),
		CreatedAt: moment(d.GetVolume().GetMeta().GetCreatedAt()).Format(time.RFC3339)}
	var on []string
	for _, n := range d.GetNodes() {
		on = append(on, n.GetNodeName())
	}
	if slices.Sort(on); len(on) > 0 {
		out.Status = map[string]any{"Nodes": strings.Join(on, ", ")}
	}
	return out
}

// dangling reports whether nothing uses a volume, and nothing is to.
func dangling(d *controlpb.VolumeDetail) bool {
	return len(d.GetServices()) == 0 && d.GetTasks() == 0
}

func (s *Server) volumes(q *request) (any, error) {
	f, err := readFilters(q.Request, "dangling", "driver", "label", "name")
	if err != nil {
		return nil, err
	}
	if err := f.oneOf("dangling", "true", "1", "false", "0"); err != nil {
		return nil, err
	}
	all, err := q.api.ListVolumes(q.Context(), nil)
	if err != nil {
		return nil, err
	}
	out := volume.ListResponse{Volumes: []volume.Volume{}, Warnings: []string{}}
	for _, d := range all {
		v, words := toVolume(d), []string{"false", "0"}
		if dangling(d) {
			words = []string{"true", "1"}
		}
		if f.begins("name", v.Name) && f.is("driver", v.Driver) && f.has("label", v.Labels) && (f.is("dangling", words[0]) || f.is("dangling", words[1])) {
			out.Volumes = append(out.Volumes, v)
		}
	}
	return out, nil
}

func oneVolume(q *request, name string) (*controlpb.VolumeDetail, error) {
	all, err := q.api.ListVolumes(q.Context(), []string{name})
	if isNotFound(err) || err == nil && len(all) != 1 {
		return nil, noVolume(name)
	}
	if err != nil {
		return nil, err
	}
	return all[0], nil
}

func noVolume(name string) error {
	return refuse(http.StatusNotFound, "get %s: no such volume", name)
}

func (s *Server) volume(q *request) (any, error) {
	d, err := oneVolume(q, q.PathValue("name"))
	if err != nil {
		return nil, err
	}
	return toVolume(d), nil
}

// volumeCreate makes a volume, or finds the one of that name that is as it is wanted, as
// Docker does.
func (s *Server) volumeCreate(q *request) (any, error) {
	var in volume.CreateRequest
	if err := readBody(q.w, q.Request, &in); err != nil {
		return nil, err
	}
	spec := &taskpb.VolumeSpec{Name: take(&in.Name), Driver: take(&in.Driver), Options: take(&in.DriverOpts), Labels: take(&in.Labels)}
	if err := untranslated("", &in); err != nil {
		return nil, err
	}
	if spec.Name == "" {
		return nil, badRequest("a volume has a name here: give one, else no task finds its data again")
	}
	_, err := q.api.CreateVolume(q.Context(), &controlpb.CreateVolumeRequest{Spec: spec})
	if err != nil && apierr.Decode(err).Reason != apierr.ReasonExists {
		return nil, err
	}
	d, listed := oneVolume(q, spec.Name)
	switch {
	case err != nil && listed != nil:
		return nil, err
	case err != nil:
		is, wants := d.GetVolume().GetSpec(), &taskpb.VolumeUse{Driver: spec.Driver, Options: spec.Options}
		if why := volumes.Differs(is, wants); why != "" {
			return nil, refuse(http.StatusConflict, "a volume named %s is there already, and %s", spec.Name, why)
		}
	case listed != nil: // it was made, and whoever made it may not see it
		d = &controlpb.VolumeDetail{Volume: &schedulerpb.Volume{Spec: volumes.Complete(spec)}}
	}
	return accepted{http.StatusCreated, toVolume(d)}, nil
}

// volumeRemove removes a volume and waits, for a while, until nodes that are up have
// deleted its data: who asks for the name next is to get it.
func (s *Server) volumeRemove(q *request) (any, error) {
	if err := onlyParameters(q.Request, "force"); err != nil {
		return nil, err
	}
	name := q.PathValue("name")
	var removed *controlpb.RemoveVolumeResponse
	err := gone(q, func() (err error) {
		removed, err = q.api.RemoveVolume(q.Context(), &controlpb.RemoveVolumeRequest{Volume: name})
		return err
	})
	switch {
	case isNotFound(err) && isOn(q.Request, "force"):
		return accepted{http.StatusNoContent, nil}, nil
	case isNotFound(err):
		return nil, noVolume(name)
	case err != nil:
		return nil, err
	}
	awaitDeleted(q, map[string]bool{removed.GetId(): true})
	return accepted{http.StatusNoContent, nil}, nil
}

// awaitDeleted waits until no node that is up has data of volumes of those ids, or for
// deletePatience. That they are removed is decided already.
func awaitDeleted(q *request, ids map[string]bool) {
	ctx, cancel := context.WithTimeout(q.Context(), deletePatience)
	defer cancel()
	tick := time.NewTicker(250 * time.Millisecond)
	defer tick.Stop()
	for {
		all, err := q.api.ListVolumes(ctx, nil)
		still := slices.ContainsFunc(all, func(d *controlpb.VolumeDetail) bool {
			return ids[d.GetVolume().GetId()] && slices.ContainsFunc(d.GetNodes(), func(n *controlpb.VolumeOnNode) bool { return !n.GetAway() })
		})
		if err != nil || !still {
			return
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
	}
}

// volumesPrune removes what nothing uses. Docker's own means volumes without a name by
// that, of which there are none, unless it is told that it means all.
func (s *Server) volumesPrune(q *request) (any, error) {
	f, err := readFilters(q.Request, "label", "label!", "all")
	if err != nil {
		return nil, err
	}
	if err := f.oneOf("all", "true", "1", "false", "0"); err != nil {
		return nil, err
	}
	out := volume.PruneReport{VolumesDeleted: []string{}}
	if q.minor >= 42 && !slices.Contains(f["all"], "true") && !slices.Contains(f["all"], "1") {
		return out, nil
	}
	all, err := q.api.ListVolumes(q.Context(), nil)
	if err != nil {
		return nil, err
	}
	names := map[string]string{} // by id
	var ids []string
	for _, d := range all {
		l := d.GetVolume().GetSpec().GetLabels()
		without := slices.ContainsFunc(f["label!"], func(want string) bool { return filters{"label": {want}}.has("label", l) })
		if dangling(d) && d.GetVolume().GetRemovingSince() == 0 && f.has("label", l) && !without {
			ids = append(ids, d.GetVolume().GetId())
			names[d.GetVolume().GetId()] = d.GetVolume().GetSpec().GetName()
		}
	}
	removed := map[string]bool{}
	for chunk := range slices.Chunk(ids, maxPruned) {
		r, err := q.api.PruneVolumes(q.Context(), &controlpb.PruneVolumesRequest{Volumes: chunk})
		if err != nil {
			return nil, err
		}
		for _, id := range r.GetRemoved() {
			removed[id] = true
			out.VolumesDeleted = append(out.VolumesDeleted, names[id])
		}
	}
	awaitDeleted(q, removed)
	return out, nil
}
