// Package volume keeps the volumes of a node: data that outlives the tasks that have it.
//
// A Store knows which tasks have which volume, and asks a Driver for the data. There is
// the driver local, a directory of the node's own configuration that is root's alone;
// another, as of CSI, is one more value of the interface. What has a task is not removed,
// and data goes away by Remove alone: no task's end, and no crash, takes any.
//
// It is told ids, and makes paths of nothing else: a name is compared, and never part of a
// path. What containers put into a volume is theirs: below it, links are not followed, and
// a subpath is resolved as if the volume were the root directory.
//
// It mounts nothing: it gives descriptors, which its caller pins.
package volume

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"slices"
	"sync"

	"golang.org/x/sys/unix"

	"github.com/redoubt-cluster/redoubt/internal/ident"
	"github.com/redoubt-cluster/redoubt/scheduler/taskpb"
	"github.com/redoubt-cluster/redoubt/scheduler/volumes"
)

// Fill writes what a volume has in it at first into a directory that is empty, whose
// owner and mode are its as well.
type Fill func(ctx context.Context, dir *os.File) error

// Driver keeps the data of volumes. There is one call at a time for each volume. An error
// that another try on this node will not change is a *Refused.
type Driver interface {
	// Open returns the directory of a volume's data. Where there is none it is made, and
	// filled; where it is empty and alone says that no other task has it, filled.
	Open(ctx context.Context, v *taskpb.Volume, alone bool, fill Fill) (*os.File, error)
	// Remove has a volume be there no more, and returns nil where it was not. It does not
	// wait until the disk is free: Sweep does that.
	Remove(id string) error
	// List tells the volumes that are there.
	List() ([]*taskpb.VolumeInstance, error)
	// Sweep deletes what removals, and crashes, left.
	Sweep(ctx context.Context) error
	// Features say what volumes of it can be here.
	Features() []*taskpb.Feature
}

// Refused is a volume that cannot be had here, however often it is tried.
type Refused struct{ text string }

func (e *Refused) Error() string { return e.text }

func refuse(format string, args ...any) error { return &Refused{fmt.Sprintf(format, args...)} }

// Store is the volumes of a node. It is safe for concurrent use.
type Store struct {
	drivers map[string]Driver // by name; never changed

	mu    sync.Mutex
	users map[string]map[string]bool // tasks by volume. Guarded by mu
	busy  map[string]chan struct{}   // volumes of which a driver has a call; closed when it returns. Guarded by mu
}

// New is a store with these drivers, by name.
func New(drivers map[string]Driver) *Store {
	return &Store{drivers: drivers, users: map[string]map[string]bool{}, busy: map[string]chan struct{}{}}
}

// Use gives a task a volume, until it is released, and what of it is mounted.
func (s *Store) Use(ctx context.Context, task string, v *taskpb.Volume, u *taskpb.VolumeUse, fill Fill) (*os.File, error) {
	if err := Check(v, u); err != nil {
		return nil, err
	}
	d := s.drivers[v.GetSpec().GetDriver()]
	if d == nil {
		return nil, refuse("volume %s: this node has no volume driver %s", u.GetName(), v.GetSpec().GetDriver())
	}
	leave, err := s.enter(ctx, v.GetId())
	if err != nil {
		return nil, err
	}
	defer leave()
	if u.GetNoCopy() || u.GetSubpath() != "" {
		fill = nil
	}
	alone := s.take(v.GetId(), task)
	dir, err := d.Open(ctx, v, alone, fill)
	if err != nil {
		return nil, fmt.Errorf("volume %s: %w", u.GetName(), err)
	}
	if u.GetSubpath() == "" {
		return dir, nil
	}
	defer dir.Close()
	f, err := within(dir, u.GetSubpath())
	if err != nil {
		return nil, refuse("volume %s: subpath %s: %v", u.GetName(), u.GetSubpath(), err)
	}
	return f, nil
}

// Check refuses a volume that is not what the use of it names, or is malformed.
func Check(v *taskpb.Volume, u *taskpb.VolumeUse) error {
	if err := volumes.CheckUse(u); err != nil {
		return &Refused{err.Error()}
	}
	switch {
	case v == nil:
		return refuse("volume %s: the task came without it", u.GetName())
	case !ident.Valid(v.GetId()):
		return refuse("volume %s: its id is malformed", u.GetName())
	case v.GetSpec().GetName() != u.GetName():
		return refuse("volume %s: the task came with another of that id", u.GetName())
	}
	if err := volumes.Check(v.GetSpec()); err != nil {
		return &Refused{err.Error()}
	}
	if why := volumes.Differs(v.GetSpec(), u); why != "" {
		return refuse("volume %s: %s", u.GetName(), why)
	}
	return nil
}

// within opens what lies below a directory that others write to: whatever links are
// there, it is not outside.
func within(dir *os.File, subpath string) (*os.File, error) {
	fd, err := unix.Openat2(int(dir.Fd()), subpath, &unix.OpenHow{
		Flags:   unix.O_PATH | unix.O_CLOEXEC,
		Resolve: unix.RESOLVE_IN_ROOT | unix.RESOLVE_NO_MAGICLINKS | unix.RESOLVE_NO_XDEV,
	})
	if errors.Is(err, unix.ENOENT) {
		return nil, errors.New("the volume has no such file or directory")
	}
	if err != nil {
		return nil, err
	}
	return os.NewFile(uintptr(fd), subpath), nil
}

// enter waits until no driver has a call for the volume.
func (s *Store) enter(ctx context.Context, id string) (leave func(), err error) {
	for {
		s.mu.Lock()
		other := s.busy[id]
		if other == nil {
			own := make(chan struct{})
			s.busy[id] = own
			s.mu.Unlock()
			return func() {
				s.mu.Lock()
				defer s.mu.Unlock()
				delete(s.busy, id)
				close(own)
			}, nil
		}
		s.mu.Unlock()
		select {
		case <-other:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}

// take notes that a task has a volume, and reports whether nobody had it before.
func (s *Store) take(id, task string) (alone bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	of := s.users[id]
	if of == nil {
		of = map[string]bool{}
		s.users[id] = of
	}
	had := of[task]
	of[task] = true
	return len(of) == 1 && !had // what one mount of a task has is not taken from under it by another
}

// Recall notes that a task, which an earlier process gave volumes, has them.
func (s *Store) Recall(task string, list []*taskpb.Volume) {
	for _, v := range list {
		s.take(v.GetId(), task)
	}
}

// Release is for a task that ended: it has no volume any more.
func (s *Store) Release(task string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for id, of := range s.users {
		if delete(of, task); len(of) == 0 {
			delete(s.users, id)
		}
	}
}

// Remove has a volume be here no more, whichever driver has it, unless a task uses it.
func (s *Store) Remove(ctx context.Context, id string) error {
	if !ident.Valid(id) {
		return fmt.Errorf("%.60q is no id of a volume", id)
	}
	leave, err := s.enter(ctx, id)
	if err != nil {
		return err
	}
	defer leave()
	s.mu.Lock()
	by := slices.Sorted(maps.Keys(s.users[id]))
	s.mu.Unlock()
	if len(by) > 0 {
		return fmt.Errorf("task %s uses it", by[0])
	}
	for _, d := range s.drivers {
		err = errors.Join(err, d.Remove(id))
	}
	return err
}

// List tells the volumes that are here, by id.
func (s *Store) List() (out []*taskpb.VolumeInstance, err error) {
	for _, d := range s.drivers {
		list, derr := d.List()
		out, err = append(out, list...), errors.Join(err, derr)
	}
	slices.SortFunc(out, func(a, b *taskpb.VolumeInstance) int {
		if a.GetId() < b.GetId() {
			return -1
		}
		return 1
	})
	return out, err
}

// Sweep deletes what removals, and crashes, left.
func (s *Store) Sweep(ctx context.Context) (err error) {
	for _, d := range s.drivers {
		err = errors.Join(err, d.Sweep(ctx))
	}
	return err
}

// Features say what volumes can be here.
func (s *Store) Features() (out []*taskpb.Feature) {
	for _, name := range slices.Sorted(maps.Keys(s.drivers)) {
		out = append(out, s.drivers[name].Features()...)
	}
	return out
}
