package image

import (
	"context"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"

	"github.com/containerd/containerd/v2/core/mount"
)

// Shift moves the owners of all files of a container's own snapshot, which lies upon an
// image of this store, from the range of all containers to the one that begins at base.
// The snapshot has a copy of each file then: that is what a range of one's own costs.
// Nobody else has the snapshot yet.
func (s *Store) Shift(ctx context.Context, key string, base uint32) error {
	mounts, err := s.client.SnapshotService(Snapshotter).Mounts(ctx, key)
	if err != nil {
		return err
	}
	return mount.WithTempMount(ctx, mounts, func(root string) error {
		return filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
			if err == nil {
				err = ctx.Err()
			}
			if err != nil {
				return err
			}
			fi, err := d.Info()
			if err != nil {
				return err
			}
			st, ok := fi.Sys().(*syscall.Stat_t)
			switch {
			case !ok:
				return fmt.Errorf("no ownership of %s", path)
			case st.Nlink > 1 && !d.IsDir() && st.Uid-base < s.size && st.Gid-base < s.size:
				return nil // another name of a file already done
			case !s.mapped(st.Uid) || !s.mapped(st.Gid):
				return fmt.Errorf("a file of the image belongs to %d:%d, outside the range of containers", st.Uid, st.Gid)
			}
			return chown(path, fi, base+st.Uid-s.base, base+st.Gid-s.base)
		})
	})
}

// chown gives a file away, and keeps what chown clears of its mode.
func chown(path string, fi fs.FileInfo, uid, gid uint32) error {
	if err := os.Lchown(path, int(uid), int(gid)); err != nil {
		return err
	}
	const special = fs.ModeSetuid | fs.ModeSetgid | fs.ModeSticky
	if m := fi.Mode(); m&fs.ModeSymlink == 0 && m&special != 0 {
		return os.Chmod(path, m)
	}
	return nil
}
