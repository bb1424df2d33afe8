package control_test

import (
	"testing"

	"github.com/redoubt-cluster/redoubt/cmd/internal/control/apierr"
	"github.com/redoubt-cluster/redoubt/cmd/internal/control/controlpb"
	"github.com/redoubt-cluster/redoubt/internal/ident"
	"github.com/redoubt-cluster/redoubt/scheduler/schedulerpb"
	"github.com/redoubt-cluster/redoubt/scheduler/taskpb"
	"github.com/redoubt-cluster/redoubt/scheduler/volumes"
)

func (w *world) volume(name string, options map[string]string) (*controlpb.CreateVolumeResponse, error) {
	return w.api.CreateVolume(w.t.Context(), &controlpb.CreateVolumeRequest{Spec: &taskpb.VolumeSpec{Name: name, Options: options}})
}

func (w *world) volumes(refs ...string) ([]*controlpb.VolumeDetail, error) {
	got := &sink[controlpb.StreamVolumesResponse]{ctx: w.t.Context()}
	err := w.api.StreamVolumes(&controlpb.StreamVolumesRequest{Volumes: refs}, got)
	var all []*controlpb.VolumeDetail
	for _, p := range got.pages {
		all = append(all, p.GetVolumes()...)
	}
	return all, err
}

// keep has a node say that it has these volumes.
func (w *world) keep(node string, ids ...string) {
	w.t.Helper()
	w.describe(node, func(d *schedulerpb.NodeDescription) {
		d.Volumes = &schedulerpb.NodeVolumes{}
		for _, id := range ids {
			d.Volumes.Instances = append(d.Volumes.Instances, &taskpb.VolumeInstance{Id: id, Name: "x", Driver: volumes.Local, CreatedAt: 7})
		}
	})
}

func TestVolumes(t *testing.T) {
	w := newWorld(t)
	made, err := w.volume("logs", nil)
	if err != nil || len(made.GetWarnings()) != 0 {
		t.Fatal(made, err)
	}
	logs := made.GetId()
	if r, err := w.volume("small", map[string]string{volumes.Size: "1g"}); err != nil || len(r.GetWarnings()) != 1 {
		t.Error("no node can bound it, and nobody says so", r, err)
	}
	_, err = w.volume("logs", nil)
	wantReason(t, err, apierr.ReasonExists, `"logs" exists already`)
	_, err = w.volume("Logs", nil)
	wantReason(t, err, apierr.ReasonInvalid, "lowercase")
	_, err = w.volume("nfs", map[string]string{"type": "nfs"})
	wantReason(t, err, apierr.ReasonInvalid, "mounts something of elsewhere")
	_, err = w.api.CreateVolume(t.Context(), &controlpb.CreateVolumeRequest{})
	wantReason(t, err, apierr.ReasonInvalid, "no volume")

	sp := w.spec("web")
	sp.Task.Container.Mounts = []*taskpb.Mount{{Type: taskpb.Mount_TYPE_VOLUME, Target: "/var/log", Volume: &taskpb.VolumeUse{Name: "logs"}},
		{Type: taskpb.Mount_TYPE_VOLUME, Target: "/data", Volume: &taskpb.VolumeUse{Name: "data"}}}
	web := w.create(sp)
	w.keep(w.worker, logs)
	w.state(w.worker, schedulerpb.NodeState_NODE_STATE_DOWN, "")
	all, err := w.volumes()
	if err != nil || len(all) != 3 || all[0].GetVolume().GetSpec().GetName() != "data" || all[0].GetVolume().GetServiceId() != web || len(all[0].GetNodes()) != 0 {
		t.Fatal(all, err)
	}
	if v := all[1]; v.GetVolume().GetId() != logs || len(v.GetServices()) != 1 || v.GetServices()[0] != "web" ||
		len(v.GetNodes()) != 1 || v.GetNodes()[0].GetNodeName() != "worker-1" || !v.GetNodes()[0].GetAway() || v.GetNodes()[0].GetInstance().GetCreatedAt() != 7 {
		t.Error(v)
	}
	if got, err := w.volumes("logs", "data"); err != nil || len(got) != 2 || got[0].GetVolume().GetId() != logs {
		t.Error(got, err)
	}
	_, err = w.volumes("nosuch")
	wantReason(t, err, apierr.ReasonNotFound, "redoubt volume ls")

	remove := func(ref string) (*controlpb.RemoveVolumeResponse, error) {
		return w.api.RemoveVolume(t.Context(), &controlpb.RemoveVolumeRequest{Volume: ref})
	}
	_, err = remove("logs")
	wantReason(t, err, apierr.ReasonInvalid, "in use by service web")
	_, err = remove("nosuch")
	wantReason(t, err, apierr.ReasonNotFound, "redoubt volume ls")

	// What is used is kept, and told; so is what nobody knows.
	small, err := w.volumes("small")
	if err != nil {
		t.Fatal(err)
	}
	id, nobody := small[0].GetVolume().GetId(), ident.New()
	pruned, err := w.api.PruneVolumes(t.Context(), &controlpb.PruneVolumesRequest{Volumes: []string{logs, id, nobody, "logs"}})
	if err != nil || len(pruned.GetRemoved()) != 1 || pruned.GetRemoved()[0] != id || len(pruned.GetKept()) != 3 || pruned.GetKept()[logs] == "" || pruned.GetKept()["logs"] != "there is no volume of that id" {
		t.Error(pruned, err)
	}
	_, err = w.api.PruneVolumes(t.Context(), &controlpb.PruneVolumesRequest{Volumes: []string{logs, nobody, logs}})
	wantReason(t, err, apierr.ReasonInvalid, "is named twice")
	_, err = w.api.PruneVolumes(t.Context(), &controlpb.PruneVolumesRequest{})
	wantReason(t, err, apierr.ReasonInvalid, "name 1 to")

	if _, err := w.api.RemoveService(t.Context(), &controlpb.RemoveServiceRequest{Service: "web"}); err != nil {
		t.Fatal(err)
	}
	if r, err := remove("data"); err != nil || len(r.GetNodes()) != 0 {
		t.Error(r, err)
	}
	if r, err := remove("logs"); err != nil || r.GetId() != logs || len(r.GetNodes()) != 1 || !r.GetNodes()[0].GetAway() {
		t.Error(r, err)
	}
	_, err = w.volume("logs", nil)
	wantReason(t, err, apierr.ReasonInvalid, "is being removed, and is still on worker-1: ")
	w.keep(w.worker)
	if _, err := w.volume("logs", nil); err != nil {
		t.Error(err)
	}
}
