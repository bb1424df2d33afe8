package rund

import (
	"context"
	"errors"
	"path/filepath"
	"slices"
	"time"

	containerd "github.com/containerd/containerd/v2/client"
	"github.com/containerd/containerd/v2/core/snapshots"
	"github.com/containerd/errdefs"

	"github.com/redoubt-cluster/redoubt/scheduler/rund/image"
	"github.com/redoubt-cluster/redoubt/scheduler/rund/rundpb"
)

// adopt learns of existing containers, however long containerd takes to come.
func (s *Server) adopt(ctx context.Context) {
	delay := retryMin
	for {
		err := s.adoptOnce(ctx)
		if err == nil || ctx.Err() != nil {
			return
		}
		s.log.Warn("cannot list containers yet", "err", err)
		t := time.NewTimer(delay)
		select {
		case <-t.C:
			delay = min(2*delay, retryMax)
		case <-s.answers:
			delay = retryMin
		case <-ctx.Done():
		}
		t.Stop()
	}
}

func (s *Server) adoptOnce(ctx context.Context) error {
	cctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	list, err := s.client.Containers(cctx, `labels."`+labelTask+`"`)
	if err != nil {
		return err
	}
	if err := s.forbidContainerd(cctx); err != nil {
		return err
	}
	found := map[string]*worker{}
	tasks, containers := map[string]bool{}, map[string]bool{}
	var twice []containerd.Container
	for _, c := range list {
		containers[c.ID()] = true
		id, ok := taskOf(c.ID())
		if !ok {
			s.log.Error("container is not ours and left alone", "container", c.ID())
			continue
		}
		tasks[id] = true
		w := s.newWorker(id)
		w.cid, w.stale = c.ID(), true
		if err := w.reload(ctx); err != nil {
			if transient(err) || ctx.Err() != nil {
				return err
			}
			s.log.Error("container is not understood and left alone", "container", c.ID(), "err", err)
			continue
		}
		other := found[id]
		if other == nil {
			found[id] = w
			continue
		}
		// Of two attempts at one task, the one that came further counts. The
		// other was never started: an attempt is the last if it is.
		if other.phase() < w.phase() {
			w, other, found[id] = other, w, w
		}
		if other.state != nil {
			s.hub.set(other.state)
		}
		twice = append(twice, list[slices.IndexFunc(list, func(c containerd.Container) bool { return c.ID() == w.cid })])
	}
	for _, c := range twice {
		s.log.Warn("removing what an interrupted start left", "container", c.ID())
		if _, err := s.removeOne(ctx, c); err != nil {
			return err
		}
		delete(containers, c.ID()) // its file system goes with the others that have no container
	}
	if err := s.adoptLocals(cctx, found); err != nil {
		return err
	}
	goesOn := map[string]bool{}
	for id, w := range found {
		goesOn[id] = w.alive() || w.phase() == rundpb.Phase_PHASE_CREATED
	}
	if err := s.sweepFiles(goesOn); err != nil {
		s.log.Error("cannot remove the files of tasks that ended", "err", err)
	}
	if err := s.sweep(ctx, tasks, containers); err != nil {
		s.log.Warn("cannot remove leftovers", "err", err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for id, w := range found {
		if w.made != nil && (w.alive() || w.phase() == rundpb.Phase_PHASE_CREATED) {
			s.volumes.Recall(id, w.made.GetVolumes())
			if w.recallFiles(); len(w.has.files) > 0 {
				w.state.Files = w.has.files
				s.hub.set(w.state)
			}
			if err := s.openCallers(w.made); err != nil {
				s.log.Error("a task has no Workload API", "task", id, "err", err)
			}
		}
		s.spawn(w)
	}
	close(s.adopted)
	if s.applied != nil {
		s.distribute()
	}
	s.log.Info("adopted", "containers", len(found))
	return nil
}

// adoptLocals finds out where tasks are on networks of this node, and takes those
// off that ended or are gone.
func (s *Server) adoptLocals(ctx context.Context, found map[string]*worker) error {
	var alive []string
	for id, w := range found {
		if p := w.phase(); p != rundpb.Phase_PHASE_EXITED && p != rundpb.Phase_PHASE_FAILED && w.state != nil {
			alive = append(alive, id)
		}
	}
	if err := s.locals.adopt(ctx, alive); err != nil {
		return err
	}
	for _, id := range alive {
		if at := s.locals.of(id); at != nil {
			found[id].state.LocalAttachments = at
			s.hub.set(found[id].state)
		}
	}
	return nil
}

// sweep removes what belongs to no container: a crash in the middle of making
// or removing one left it.
func (s *Server) sweep(ctx context.Context, owners, containers map[string]bool) error {
	var errs []error
	for _, id := range s.listCgroups() {
		if !owners[id] {
			errs = append(errs, s.reap(ctx, id))
		}
	}
	pinned, err1 := s.netns.List()
	dirs, err2 := s.listTaskDirs()
	errs = append(errs, err1, err2, s.sweepSnapshots(ctx, containers))
	for _, id := range append(pinned, dirs...) {
		if !owners[id] {
			errs = append(errs, s.netns.Remove(id), s.taskDir(id).remove())
		}
	}
	return errors.Join(errs...)
}

// sweepSnapshots removes file systems of containers that were never made.
func (s *Server) sweepSnapshots(ctx context.Context, containers map[string]bool) error {
	sn := s.client.SnapshotService(image.Snapshotter)
	var left []string
	err := sn.Walk(ctx, func(_ context.Context, info snapshots.Info) error {
		if _, ours := taskOf(info.Name); ours && !containers[info.Name] && info.Labels[labelRoot] != "" {
			left = append(left, info.Name)
		}
		return nil
	})
	for _, id := range left {
		if rerr := sn.Remove(ctx, id); rerr != nil && !errdefs.IsNotFound(rerr) {
			err = errors.Join(err, rerr)
		}
	}
	return err
}

// forbidContainerd adds containerd's own directories to what must not be
// mounted into containers. It runs before any worker.
func (s *Server) forbidContainerd(ctx context.Context) error {
	resp, err := s.client.IntrospectionService().Plugins(ctx)
	if err != nil {
		return err
	}
	for _, p := range resp.GetPlugins() {
		if root := p.GetExports()["root"]; filepath.IsAbs(root) && p.GetType() == "io.containerd.snapshotter.v1" && p.GetID() == image.Snapshotter {
			s.mu.Lock()
			s.containerdRoot = root
			s.mu.Unlock()
		}
		if root := p.GetExports()["root"]; filepath.IsAbs(root) && !slices.Contains(s.binds.forbidden, filepath.Dir(root)) {
			s.binds.forbidden = append(s.binds.forbidden, filepath.Dir(root))
		}
	}
	return nil
}
