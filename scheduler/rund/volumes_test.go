package rund

import (
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"google.golang.org/protobuf/proto"

	"github.com/redoubt-cluster/redoubt/internal/ident"
	"github.com/redoubt-cluster/redoubt/scheduler/rund/rundpb"
	"github.com/redoubt-cluster/redoubt/scheduler/taskpb"
	"github.com/redoubt-cluster/redoubt/scheduler/volumes"
)

// withVolume is a task that has the volume at /srv, and runs the probe.
func (n *node) withVolume(v *taskpb.Volume, args ...string) *rundpb.TaskDesired {
	d := n.desired(args...)
	d.Spec.Container.Mounts = []*taskpb.Mount{{Type: taskpb.Mount_TYPE_VOLUME, Target: "/srv", Volume: &taskpb.VolumeUse{Name: v.GetSpec().GetName()}}}
	d.Volumes = []*taskpb.Volume{v}
	return d
}

func someVolume() *taskpb.Volume {
	return &taskpb.Volume{Id: ident.New(), Spec: &taskpb.VolumeSpec{Name: "v" + ident.New()[:8], Driver: volumes.Local}}
}

// has is what the node says of a volume; nil: it has none.
func (n *node) has(id string) *taskpb.VolumeInstance {
	n.t.Helper()
	p, err := n.client.Probe(n.ctx(), &rundpb.ProbeRequest{})
	if err != nil {
		n.t.Fatal(err)
	}
	for _, v := range p.GetVolumes() {
		if v.GetId() == id {
			return v
		}
	}
	return nil
}

// removeVolume has the volume be removed while these tasks are wanted, and returns why it
// was not.
func (n *node) removeVolume(id string, tasks ...*rundpb.TaskDesired) string {
	n.t.Helper()
	n.gen++
	resp, err := n.client.Apply(n.ctx(), &rundpb.ApplyRequest{Generation: n.gen, Tasks: tasks, RemoveVolumes: []string{id}})
	if err != nil {
		n.t.Fatal(err)
	}
	return resp.GetVolumeErrors()[id]
}

func TestVolumeOutlivesTasks(t *testing.T) {
	n := newNode(t)
	v := someVolume()
	if out := n.output(n.withVolume(v, "cat", "/srv/seed")); !strings.Contains(out, "of the image") {
		t.Fatal(out)
	}
	dir := filepath.Join(base, "data", "volumes", v.Id, "data")
	fi, err := os.Stat(dir)
	if err != nil {
		t.Fatal(err)
	}
	// As the image has it, in the ids of containers.
	if st := fi.Sys().(*syscall.Stat_t); st.Uid != n.config.UserNS.Base+1000 || fi.Mode().Perm() != 0o750 {
		t.Errorf("owner %d, mode %s", st.Uid, fi.Mode())
	}
	w := n.withVolume(v, "touch", "/srv/mine")
	w.Spec.Container.User = "app"
	n.output(w)
	if has := n.has(v.Id); has.GetName() != v.Spec.Name || has.GetCreatedAt() == 0 {
		t.Error(has)
	}
	// Of another service, after the node was started anew, read-only.
	n.restart()
	r := n.withVolume(v, "touch", "/srv/other")
	r.Spec.Container.Mounts[0].ReadOnly = true
	if out := n.output(r); !strings.Contains(out, "read-only") {
		t.Error(out)
	}
	wait := n.withVolume(v)
	n.apply(wait)
	n.awaitPhase(wait.TaskId, rundpb.Phase_PHASE_RUNNING)
	if why := n.removeVolume(v.Id, wait); !strings.Contains(why, "task "+wait.TaskId+" uses it") {
		t.Errorf("%q", why)
	}
	n.restart() // it learns from the container who has it
	n.awaitPhase(wait.TaskId, rundpb.Phase_PHASE_RUNNING)
	if why := n.removeVolume(v.Id, wait); !strings.Contains(why, "uses it") {
		t.Errorf("%q", why)
	}
	n.apply()
	n.awaitEmpty()
	if _, err := os.Stat(filepath.Join(dir, "mine")); err != nil || n.has(v.Id) == nil {
		t.Error("the data went with the task", err)
	}
	if why := n.removeVolume(v.Id); why != "" || n.has(v.Id) != nil {
		t.Errorf("%q: it is still here", why)
	}
	if _, err := os.Stat(dir); err == nil {
		t.Error("removed, and where it was")
	}
}

func TestVolumeMountedTwiceAndBelow(t *testing.T) {
	n := newNode(t)
	v := someVolume()
	d := n.withVolume(v, "cat", "/srv/seed", "/home/seed", "/tmp/x/seed")
	d.Spec.Container.Mounts = append(d.Spec.Container.Mounts,
		&taskpb.Mount{Type: taskpb.Mount_TYPE_VOLUME, Target: "/home", Volume: &taskpb.VolumeUse{Name: v.Spec.Name}})
	if out := n.output(d); strings.Count(out, "of the image") != 2 {
		t.Error(out)
	}
	sub := n.withVolume(v)
	sub.Spec.Container.Mounts[0].Volume.Subpath = "nowhere"
	if got := n.refused(sub); !strings.Contains(got, "no such file or directory") {
		t.Error(got)
	}
	n.apply()
	n.awaitEmpty()
	dir := filepath.Join(base, "data", "volumes", v.Id, "data")
	if err := os.Symlink("/etc", filepath.Join(dir, "out")); err != nil {
		t.Fatal(err)
	}
	out := n.withVolume(v)
	out.Spec.Container.Mounts[0].Volume.Subpath = "out"
	if got := n.refused(out); !strings.Contains(got, "no such file or directory") {
		t.Error(got)
	}
}

// TestHostileVolumes: a redoubtd that was taken over names volumes to rund itself.
func TestHostileVolumes(t *testing.T) {
	n := newNode(t)
	v := someVolume()
	good := n.withVolume(v, "cat", "/srv/seed")
	n.output(good)
	for want, change := range map[string]func(*rundpb.TaskDesired){
		"came with 0":     func(d *rundpb.TaskDesired) { d.Volumes = nil },
		"came with 2":     func(d *rundpb.TaskDesired) { d.Volumes = append(d.Volumes, someVolume()) },
		"names 0 volumes": func(d *rundpb.TaskDesired) { d.Spec.Container.Mounts = nil },
		"came without it": func(d *rundpb.TaskDesired) { d.Volumes[0] = someVolume() },
		"id is malformed": func(d *rundpb.TaskDesired) { d.Volumes[0].Id = "../../../etc" },
		"is of a volume " + v.Spec.Name: func(d *rundpb.TaskDesired) {
			d.Volumes[0].Spec.Name, d.Spec.Container.Mounts[0].Volume.Name = "mine", "mine"
		},
		"must have no source":     func(d *rundpb.TaskDesired) { d.Spec.Container.Mounts[0].Source = "/etc" },
		"another type of mount":   func(d *rundpb.TaskDesired) { d.Spec.Container.Mounts[0].Volume = nil },
		"below the volume":        func(d *rundpb.TaskDesired) { d.Spec.Container.Mounts[0].Volume.Subpath = "../" + v.Id },
		"mounts something of els": func(d *rundpb.TaskDesired) { d.Volumes[0].Spec.Options = map[string]string{"type": "nfs"} },
		"isolation userns":        func(d *rundpb.TaskDesired) { d.Spec.Container.Isolation = taskpb.Isolation_ISOLATION_USERNS },
		"rprivate alone": func(d *rundpb.TaskDesired) {
			d.Volumes = nil
			d.Spec.Container.Mounts = []*taskpb.Mount{{Type: taskpb.Mount_TYPE_BIND, Source: "/srv", Target: "/x", Bind: &taskpb.BindOptions{Propagation: "shared"}}}
		},
		// The directory of volumes is no bind mount.
		"never allowed": func(d *rundpb.TaskDesired) {
			d.Volumes = nil
			d.Spec.Container.Mounts = []*taskpb.Mount{{Type: taskpb.Mount_TYPE_BIND, Source: filepath.Join(base, "data", "volumes", v.Id), Target: "/x"}}
		},
	} {
		d := proto.CloneOf(good)
		d.TaskId = ident.New()
		change(d)
		if want == "never allowed" {
			n.server.binds.allowed = []BindMount{{Path: base}}
		}
		if got := n.refused(d); !strings.Contains(got, want) {
			t.Errorf("got %q, want %q", got, want)
		}
	}
	for _, id := range []string{"..", "removed-x", v.Id + "/data", ""} {
		n.gen++
		if _, err := n.client.Apply(n.ctx(), &rundpb.ApplyRequest{Generation: n.gen, RemoveVolumes: []string{id}}); err == nil {
			t.Errorf("%q is to be removed, and nobody objects", id)
		}
	}
	if n.has(v.Id) == nil {
		t.Error("it went")
	}
}
