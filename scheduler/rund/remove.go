package rund

import (
	"context"
	"errors"
	"fmt"
	"strings"

	containerd "github.com/containerd/containerd/v2/client"
	"github.com/containerd/containerd/v2/core/snapshots"
	"github.com/containerd/errdefs"

	"github.com/redoubt-cluster/redoubt/internal/ident"
	"github.com/redoubt-cluster/redoubt/scheduler/rund/image"
)

// Attempts. A task's container has the task's id. When making it was cut off,
// the next attempt is a container with an id of its own, because what the former
// left lies under its id in places that only containerd and runc know: the
// shim's bundle, which a new containerd does not always remove, runc's state,
// the shim's socket. A new containerd also cleans up by id, some of it after it
// answers again, and must not meet the new attempt.

const attemptChars = 6

// attempt makes an id for the next container of a task.
func attempt(task string) string { return task + "." + ident.New()[:attemptChars] }

// taskOf is the task that a container, its snapshot or its cgroup belongs to.
func taskOf(cid string) (task string, ok bool) {
	task, try, more := strings.Cut(cid, ".")
	return task, ident.Valid(task) && (!more || len(try) == attemptChars)
}

// occupied reports whether something already has the id of a new container.
// containerd has no code for a bundle or a state of runc that is in the way.
func occupied(err error) bool {
	return err != nil && (errdefs.IsAlreadyExists(err) || strings.Contains(err.Error(), "file exists") || strings.Contains(err.Error(), "already exists"))
}

// wreck removes everything of a task; the container's process must be gone or
// is killed. It may be repeated.
func (s *Server) wreck(ctx context.Context, id, cid string) error {
	if err := s.removeContainer(ctx, id, cid); err != nil {
		return err
	}
	s.callers.close(id)
	if err := s.locals.detach(ctx, id); err != nil {
		return err
	}
	return errors.Join(s.netns.Remove(id), s.taskDir(id).remove())
}

// removeContainer removes a task's container cid and, where anything looks like
// an interruption, whatever else containerd and the kernel have of the task.
func (s *Server) removeContainer(ctx context.Context, id, cid string) error {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	interrupted := len(s.taskCgroups(id)) > 0
	cont, err := s.client.LoadContainer(ctx, cid)
	switch {
	case errdefs.IsNotFound(err):
	case err != nil:
		return err
	default:
		had, err := s.removeOne(ctx, cont)
		if err != nil {
			return err
		}
		interrupted = !had || len(s.taskCgroups(id)) > 0 // or ended and let go, which costs only a look
	}
	sn := s.client.SnapshotService(image.Snapshotter)
	if interrupted {
		if err := s.removeRest(ctx, id); err != nil {
			return err
		}
	}
	// By its key: a crash may have left a snapshot without a container.
	if err := sn.Remove(ctx, cid); err != nil && !errdefs.IsNotFound(err) {
		return fmt.Errorf("remove file system: %w", err)
	}
	return nil
}

// removeOne removes a container and its process; had tells whether containerd
// knew one.
func (s *Server) removeOne(ctx context.Context, cont containerd.Container) (had bool, err error) {
	task, err := cont.Task(ctx, nil)
	switch {
	case errdefs.IsNotFound(err):
	case err != nil:
		return false, err
	default:
		had = true
		if _, err := task.Delete(ctx, containerd.WithProcessKill); err != nil && !errdefs.IsNotFound(err) {
			return had, fmt.Errorf("remove container: %w", err)
		}
	}
	if err := cont.Delete(ctx); err != nil && !errdefs.IsNotFound(err) {
		return had, fmt.Errorf("remove container: %w", err)
	}
	return had, nil
}

// removeRest removes what interrupted attempts of a task left: containers,
// processes, cgroups, file systems.
func (s *Server) removeRest(ctx context.Context, id string) error {
	list, err := s.client.Containers(ctx, ofTask(id))
	if err != nil {
		return err
	}
	for _, c := range list {
		if _, err := s.removeOne(ctx, c); err != nil {
			return err
		}
	}
	if err := s.reap(ctx, id); err != nil {
		return err
	}
	sn := s.client.SnapshotService(image.Snapshotter)
	var keys []string
	err = sn.Walk(ctx, func(_ context.Context, info snapshots.Info) error {
		keys = append(keys, info.Name)
		return nil
	}, ofTask(id))
	for _, key := range keys {
		if rerr := sn.Remove(ctx, key); rerr != nil && !errdefs.IsNotFound(rerr) {
			err = errors.Join(err, fmt.Errorf("remove file system: %w", rerr))
		}
	}
	return err
}

func ofTask(id string) string { return `labels."` + labelTask + `"==` + id }
