package rund

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"time"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"
	"golang.org/x/sys/unix"
	"google.golang.org/protobuf/proto"

	"github.com/redoubt-cluster/redoubt/scheduler/rund/image"
	"github.com/redoubt-cluster/redoubt/scheduler/rund/rundpb"
	"github.com/redoubt-cluster/redoubt/scheduler/taskpb"
)

// collecting removes by policy what nobody uses, from time to time.
func (s *Server) collecting(ctx context.Context) {
	select {
	case <-s.adopted: // before that, what is in use is not known
	case <-ctx.Done():
		return
	}
	t := time.NewTimer(collectFirst)
	defer t.Stop()
	for {
		select {
		case <-t.C:
		case <-ctx.Done():
			return
		}
		if err := s.collect(ctx, time.Now()); err != nil && ctx.Err() == nil {
			s.log.Warn("cannot collect garbage, trying again later", "err", err)
		}
		t.Reset(collectEvery)
	}
}

// collect does it once. It needs to know what the agent wants: until then every
// image may be in use.
func (s *Server) collect(ctx context.Context, now time.Time) error {
	s.mu.Lock()
	governed, root := s.applied != nil, s.containerdRoot
	s.mu.Unlock()
	if !governed || root == "" {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, collectTimeout)
	defer cancel()
	dead, removed, err := s.collectDead(ctx, now)
	policy := image.Policy{
		UnusedFor: s.config.GC.ImagesUnusedFor, High: s.config.GC.DiskHighPercent, Low: s.config.GC.DiskLowPercent,
		Used: func() (int, error) {
			size, free, err := diskOf(root)
			return image.Percent(size-free, size), err
		},
	}
	got, ierr := s.images.Collect(ctx, now, policy, s.imagesInUse)
	size, free, derr := diskOf(root)
	if err = errors.Join(err, ierr, derr); err != nil {
		return err
	}
	message := ""
	if got.Short {
		message = fmt.Sprintf("the disk is more than %d%% full and no image may be removed: make room in %s", policy.High, root)
		s.log.Warn(message)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	old := s.storage
	s.storage = &taskpb.Storage{
		Images: uint32(got.Images), ImageBytes: got.Bytes, DeadContainers: uint32(dead), CollectedAt: now.UnixNano(), Message: message,
		ImagesRemoved: old.GetImagesRemoved() + uint32(got.Removed), ContainersRemoved: old.GetContainersRemoved() + uint32(removed),
		// In steps: the report is stored by managers when it changes.
		DiskBytes: int64(size), DiskFree: int64(free) / diskStep * diskStep,
	}
	if same := proto.CloneOf(s.storage); old != nil {
		if same.CollectedAt = old.CollectedAt; proto.Equal(same, old) {
			s.storage = old
		}
	}
	return nil
}

// imagesInUse are those of every task that is here or wanted here.
func (s *Server) imagesInUse() map[digest.Digest]bool {
	out := map[digest.Digest]bool{}
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, d := range s.applied {
		if d.GetPhase() != rundpb.Phase_PHASE_STOPPING {
			out[digest.Digest(d.GetSpec().GetContainer().GetDigest())] = true
		}
	}
	for _, a := range s.hub.all() {
		if a.GetPhase() != rundpb.Phase_PHASE_EXITED && a.GetPhase() != rundpb.Phase_PHASE_FAILED {
			out[digest.Digest(a.GetSpec().GetContainer().GetDigest())] = true
		}
	}
	return out
}

// collectDead lets go of the file systems and logs of containers that ended:
// all but the last few of each slot, and those that ended long ago. What is
// left is how they ended, until the agent wants the task gone.
func (s *Server) collectDead(ctx context.Context, now time.Time) (dead, removed int, err error) {
	type slot struct {
		service string
		slot    uint32
	}
	s.mu.Lock()
	of := map[string]slot{}
	for _, d := range s.applied {
		of[d.GetTaskId()] = slot{d.GetServiceId(), d.GetSlot()}
	}
	s.mu.Unlock()
	bySlot := map[slot][]*rundpb.TaskActual{}
	for _, a := range s.hub.all() {
		if k, ok := of[a.GetTaskId()]; ok && (a.GetPhase() == rundpb.Phase_PHASE_EXITED || a.GetPhase() == rundpb.Phase_PHASE_FAILED) {
			bySlot[k] = append(bySlot[k], a)
		}
	}
	var errs []error
	for _, list := range bySlot {
		slices.SortFunc(list, func(a, b *rundpb.TaskActual) int { return cmp.Compare(b.GetAt(), a.GetAt()) })
		for i, a := range list {
			if i < s.config.GC.DeadPerSlot && now.Sub(time.Unix(0, a.GetAt())) <= s.config.GC.DeadFor {
				dead++
				continue
			}
			done, err := s.strip(ctx, a.GetTaskId(), cmp.Or(a.GetContainerId(), a.GetTaskId()))
			if done {
				removed++
			}
			errs = append(errs, err)
		}
	}
	return dead, removed, errors.Join(errs...)
}

// strip removes what a dead container holds; false: it was done before.
func (s *Server) strip(ctx context.Context, id, cid string) (bool, error) {
	log := s.taskDir(id).log()
	if _, err := os.Stat(log); errors.Is(err, os.ErrNotExist) {
		return false, nil
	}
	err := s.client.SnapshotService(image.Snapshotter).Remove(ctx, cid)
	if err != nil && !errdefs.IsNotFound(err) {
		return false, fmt.Errorf("remove file system of %s: %w", id, err)
	}
	return true, errors.Join(s.netns.Remove(id), os.RemoveAll(log)) // the log last: it marks what is done
}

func diskOf(path string) (size, free uint64, err error) {
	var st unix.Statfs_t
	if err := unix.Statfs(path, &st); err != nil {
		return 0, 0, fmt.Errorf("disk of %s: %w", path, err)
	}
	unit := uint64(st.Bsize)
	return st.Blocks * unit, st.Bavail * unit, nil
}
