package rund

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/containerd/containerd/v2/core/mount"

	"github.com/redoubt-cluster/redoubt/internal/oneline"
	"github.com/redoubt-cluster/redoubt/scheduler/rund/image"
	"github.com/redoubt-cluster/redoubt/scheduler/rund/rundpb"
	"github.com/redoubt-cluster/redoubt/scheduler/rund/volume"
	"github.com/redoubt-cluster/redoubt/scheduler/taskpb"
	"github.com/redoubt-cluster/redoubt/scheduler/volumes"
)

// VolumesConfig says where the node keeps volumes.
type VolumesConfig struct {
	// Path is a directory that is root's alone; empty: volumes in the data directory.
	Path string `yaml:"path"`
}

func (c *VolumesConfig) validate() error {
	if p := c.Path; p != "" && (!cleanAbs(p) || p == "/") {
		return fmt.Errorf("path %q must be a clean absolute path other than /", p)
	}
	return nil
}

// openVolumes is the node's volumes, whose files belong to the range of ids of all
// containers.
func openVolumes(o Options) (*volume.Store, string, error) {
	dir := o.Config.Volumes.Path
	if dir == "" {
		dir = filepath.Join(o.DataDir, "volumes")
	}
	local, err := volume.OpenLocal(dir, filepath.Join(o.DataDir, "volumes-store"), int(o.Config.ids().Base), int(o.Config.ids().Base))
	if err != nil {
		return nil, "", err
	}
	return volume.New(map[string]volume.Driver{volumes.Local: local}), dir, nil
}

// checkVolumes refuses a task that came with other volumes than its mounts name.
func checkVolumes(t *rundpb.TaskDesired) error {
	uses := volumes.Uses(t.GetSpec().GetContainer())
	if len(uses) > 0 && alone(t.GetSpec()) {
		return errors.New("a volume's files belong to the ids that all containers of a node share: a task that has ids for itself (isolation userns) gets none")
	}
	if len(t.GetVolumes()) != len(uses) {
		return fmt.Errorf("the task names %d volumes, and came with %d", len(uses), len(t.GetVolumes()))
	}
	ids := map[string]bool{}
	for _, u := range uses {
		v := volumeOf(t, u.GetName())
		if err := volume.Check(v, u); err != nil {
			return err
		}
		if ids[v.GetId()] {
			return fmt.Errorf("volume %s: the task came with another of that id", u.GetName())
		}
		ids[v.GetId()] = true
	}
	return nil
}

// volumeOf is the volume of that name that a task came with; nil: none.
func volumeOf(t *rundpb.TaskDesired, name string) *taskpb.Volume {
	for _, v := range t.GetVolumes() {
		if v.GetSpec().GetName() == name {
			return v
		}
	}
	return nil
}

// useVolume gives a task what a mount of it names, for as long as it has a container.
func (s *Server) useVolume(ctx context.Context, d *rundpb.TaskDesired, cid string, m *taskpb.Mount) (*os.File, error) {
	fill := func(ctx context.Context, dir *os.File) error { return s.fillVolume(ctx, cid, m.GetTarget(), dir) }
	f, err := s.volumes.Use(ctx, d.GetTaskId(), volumeOf(d, m.GetVolume().GetName()), m.GetVolume(), fill)
	if refused := (*volume.Refused)(nil); errors.As(err, &refused) {
		return nil, rejected(err)
	}
	return f, err
}

// fillVolume copies what the image of a container, which nobody has begun, has at target.
func (s *Server) fillVolume(ctx context.Context, cid, target string, dir *os.File) error {
	mounts, err := s.client.SnapshotService(image.Snapshotter).Mounts(ctx, cid)
	if err != nil {
		return err
	}
	return mount.WithReadonlyTempMount(ctx, mounts, func(root string) error {
		f, err := os.Open(root)
		if err != nil {
			return err
		}
		defer f.Close()
		return volume.CopyFrom(f, strings.TrimPrefix(target, "/"), s.config.Limits.ImageBytes)(ctx, dir)
	})
}

// removeVolumes deletes what managers want to be deleted, and says why it did not.
func (s *Server) removeVolumes(ctx context.Context, ids []string) map[string]string {
	errs := map[string]string{}
	for _, id := range ids {
		select {
		case <-s.adopted:
		default:
			errs[id] = "which tasks use it is not known yet"
			continue
		}
		if err := s.volumes.Remove(ctx, id); err != nil {
			errs[id] = oneline.Text(err.Error(), maxSaid)
		}
	}
	if len(errs) < len(ids) {
		select {
		case s.removed <- struct{}{}:
		default: // it is told already
		}
	}
	return errs
}

// sweeping deletes what is left of volumes that were removed: at once, as the disk is wanted
// back, and from time to time. It may take long, and nothing else waits for it.
func (s *Server) sweeping(ctx context.Context) {
	t := time.NewTimer(collectFirst)
	defer t.Stop()
	for {
		select {
		case <-t.C:
		case <-s.removed:
		case <-ctx.Done():
			return
		}
		if err := s.volumes.Sweep(ctx); err != nil && ctx.Err() == nil {
			s.log.Warn("cannot delete what is left of a volume that was removed, trying again later", "err", err)
		}
		t.Reset(collectEvery)
	}
}
