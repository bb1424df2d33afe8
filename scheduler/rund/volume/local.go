package volume

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"
	"google.golang.org/protobuf/proto"

	"github.com/redoubt-cluster/redoubt/internal/atomicfile"
	"github.com/redoubt-cluster/redoubt/internal/ident"
	"github.com/redoubt-cluster/redoubt/scheduler/taskpb"
	"github.com/redoubt-cluster/redoubt/scheduler/volumes"
)

// Local keeps volumes as directories of one that is root's alone:
//
//	<dir>/store                 which directory it is, see markerName
//	<dir>/<volume>/record       a VolumeInstance
//	<dir>/<volume>/data/        what containers have
//	<dir>/<volume>/filling/     becomes data when it is whole
//	<dir>/removed-<volume>…     to be deleted
//
// data is there or not: it is filled beside, and takes its place in one step.
type Local struct {
	dir string
	// uid and gid are the host's ids of containers' root.
	uid, gid int
	quota    *quota
}

const (
	recordName  = "record"
	dataName    = "data"
	fillingName = "filling"
	removed     = "removed-"
)

// OpenLocal makes the directory where the node had none, and finds out what its file system
// can do. note is a file elsewhere that says which directory it had.
func OpenLocal(dir, note string, uid, gid int) (*Local, error) {
	if err := known(dir, note); err != nil {
		return nil, err
	}
	f, err := os.OpenFile(dir, os.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW, 0)
	if err != nil {
		return nil, fmt.Errorf("directory of volumes: %w", err)
	}
	defer f.Close()
	var st unix.Stat_t
	if err := unix.Fstat(int(f.Fd()), &st); err != nil {
		return nil, err
	}
	if int(st.Uid) != os.Geteuid() || st.Mode&0o077 != 0 {
		return nil, fmt.Errorf("directory of volumes: %s must be root's, with mode 0700: correct both", dir)
	}
	return &Local{dir: dir, uid: uid, gid: gid, quota: probeQuota(f)}, nil
}

func (l *Local) path(id string) string { return filepath.Join(l.dir, id) }

// Open is Driver's.
func (l *Local) Open(ctx context.Context, v *taskpb.Volume, alone bool, fill Fill) (*os.File, error) {
	options, err := volumes.Parse(v.GetSpec())
	if err != nil {
		return nil, &Refused{err.Error()}
	}
	is, err := l.record(v.GetId())
	switch {
	case errors.Is(err, fs.ErrNotExist):
		if is, err = l.create(v, options); err != nil {
			return nil, err
		}
	case err != nil:
		return nil, err
	case is.GetName() != v.GetSpec().GetName() || is.GetSize() != options.Size:
		// Who says so now may be somebody else than who said it first.
		return nil, refuse("its data here is of a volume %s of other options", is.GetName())
	}
	at := l.path(v.GetId())
	data, err := openDir(filepath.Join(at, dataName))
	if err == nil && (fill == nil || !alone || !empty(data)) {
		return data, nil
	}
	if err == nil {
		data.Close()
	} else if !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	if err := l.fill(ctx, at, is, fill); err != nil {
		return nil, err
	}
	return openDir(filepath.Join(at, dataName))
}

// create notes a volume, before anything is in it.
func (l *Local) create(v *taskpb.Volume, options volumes.Options) (*taskpb.VolumeInstance, error) {
	if options.Size > 0 && l.quota.missing != "" {
		return nil, refuse("this node cannot bound it: %s", l.quota.missing)
	}
	all, err := l.List()
	if err != nil {
		return nil, err
	}
	if len(all) >= MaxVolumes {
		return nil, refuse("this node has %d volumes, as many as it takes", len(all))
	}
	is := &taskpb.VolumeInstance{Id: v.GetId(), Name: v.GetSpec().GetName(), Driver: volumes.Local, CreatedAt: time.Now().UnixNano(), Size: options.Size}
	b, err := proto.Marshal(is)
	if err != nil {
		return nil, err
	}
	at := l.path(v.GetId())
	if err := os.Mkdir(at, 0o700); err != nil && !errors.Is(err, fs.ErrExist) { // a crash left it
		return nil, err
	}
	if err := atomicfile.Write(filepath.Join(at, recordName), b); err != nil {
		return nil, err
	}
	return is, atomicfile.SyncDir(l.dir)
}

// fill makes data of a volume that has none, or nothing in it.
func (l *Local) fill(ctx context.Context, at string, is *taskpb.VolumeInstance, fill Fill) (err error) {
	filling := filepath.Join(at, fillingName)
	if err := os.RemoveAll(filling); err != nil { // a crash left it
		return err
	}
	if err := os.Mkdir(filling, 0o755); err != nil {
		return err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, os.RemoveAll(filling))
		}
	}()
	dir, err := openDir(filling)
	if err != nil {
		return err
	}
	defer dir.Close()
	if err := errors.Join(dir.Chmod(0o755), dir.Chown(l.uid, l.gid)); err != nil { // whatever the umask is
		return err
	}
	if is.GetSize() > 0 {
		if err := l.quota.set(dir, is.GetSize()); err != nil {
			return err
		}
	}
	if fill != nil {
		if err := fill(ctx, dir); err != nil {
			return err
		}
	}
	if err := unix.Syncfs(int(dir.Fd())); err != nil {
		return err
	}
	// An empty directory gives way to another, which os.Rename does not try.
	if err := unix.Rename(filling, filepath.Join(at, dataName)); err != nil {
		return err
	}
	return atomicfile.SyncDir(at)
}

// record is what a volume was made as.
func (l *Local) record(id string) (*taskpb.VolumeInstance, error) {
	b, err := atomicfile.ReadBounded(filepath.Join(l.path(id), recordName), maxRecord)
	if err != nil {
		return nil, err
	}
	is := &taskpb.VolumeInstance{}
	if err := proto.Unmarshal(b, is); err != nil || is.GetId() != id {
		return nil, refuse("what this node wrote down of it, in %s, is damaged: its data is beside it", filepath.Join(l.path(id), recordName))
	}
	return is, nil
}

// Remove is Driver's. The directory is elsewhere at once.
func (l *Local) Remove(id string) error {
	err := os.Rename(l.path(id), l.path(removed+id+"."+ident.New()))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return errors.Join(err, atomicfile.SyncDir(l.dir))
}

// List is Driver's. A volume whose record is damaged is told of by its id alone.
func (l *Local) List() (out []*taskpb.VolumeInstance, err error) {
	entries, err := os.ReadDir(l.dir)
	if err != nil {
		return nil, err
	}
	for _, e := range entries {
		if !ident.Valid(e.Name()) {
			continue
		}
		is, err := l.record(e.Name())
		switch refused := (*Refused)(nil); {
		case errors.Is(err, fs.ErrNotExist): // a crash left it: there is nothing in it
			continue
		case errors.As(err, &refused):
			is = &taskpb.VolumeInstance{Id: e.Name(), Driver: volumes.Local}
		case err != nil:
			return nil, err
		}
		out = append(out, is)
	}
	return out, nil
}

// Features is Driver's.
func (l *Local) Features() []*taskpb.Feature {
	return []*taskpb.Feature{{Name: volumes.SizeFeature, Present: l.quota.missing == "", Detail: l.quota.missing}}
}

func openDir(path string) (*os.File, error) {
	return os.OpenFile(path, os.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW, 0)
}

func empty(dir *os.File) bool {
	_, err := dir.Readdirnames(1)
	return errors.Is(err, io.EOF)
}
