package image

import (
	"context"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"

	containerd "github.com/containerd/containerd/v2/client"
	"github.com/containerd/containerd/v2/core/mount"
	"github.com/containerd/errdefs"
	"github.com/opencontainers/image-spec/identity"
)

// gcRef ties the remapped snapshot to its image: it lives as long.
const gcRef = "containerd.io/gc.ref.snapshot." + Snapshotter + "/redoubt-userns"

// remap makes a copy of the image's file system whose files belong to the user
// namespace's range and returns its name. It is done once per image; containers
// share it. containerd 1.6 and runc 1.1 cannot mount a root file system with an
// id mapping, so ownership is really changed. Called with the digest locked.
func (s *Store) remap(ctx context.Context, img containerd.Image) (string, error) {
	diffs, err := img.RootFS(ctx)
	if err != nil {
		return "", err
	}
	parent := identity.ChainID(diffs).String()
	name := s.remapped(parent)
	sn := s.client.SnapshotService(Snapshotter)
	if _, err := sn.Stat(ctx, name); err == nil {
		return name, s.label(ctx, img.Name(), map[string]string{gcRef: name})
	} else if !errdefs.IsNotFound(err) {
		return "", err
	}

	ctx, done, err := s.client.WithLease(ctx)
	if err != nil {
		return "", err
	}
	defer done(context.WithoutCancel(ctx))
	work := name + "-work"
	if err := sn.Remove(ctx, work); err != nil && !errdefs.IsNotFound(err) { // left by a crash
		return "", err
	}
	mounts, err := sn.Prepare(ctx, work, parent)
	if err != nil {
		return "", err
	}
	err = mount.WithTempMount(ctx, mounts, func(root string) error { return s.chownAll(ctx, root) })
	if err == nil {
		err = sn.Commit(ctx, name, work)
	}
	if err != nil {
		_ = sn.Remove(context.WithoutCancel(ctx), work)
		if !errdefs.IsAlreadyExists(err) { // another image of the same layers
			return "", err
		}
	}
	return name, s.label(ctx, img.Name(), map[string]string{gcRef: name})
}

// remapped is the name of the copy of a snapshot.
func (s *Store) remapped(parent string) string {
	return fmt.Sprintf("redoubt-userns-%d-%d-%s", s.base, s.size, parent)
}

// Parent is the snapshot that containers of this image are made upon, as its
// configuration names the layers.
func (s *Store) Parent(ctx context.Context, dgst string) (string, error) {
	want, err := parseDigest(dgst)
	if err != nil {
		return "", err
	}
	img, err := s.present(ctx, want)
	if err != nil {
		return "", err
	}
	if img == nil {
		return "", fmt.Errorf("the image %s is not here any more", want)
	}
	diffs, err := img.RootFS(ctx)
	if err != nil {
		return "", err
	}
	return s.remapped(identity.ChainID(diffs).String()), nil
}

// chownAll moves the owners of all files below root into the range. Nobody else
// has this mount, so paths are stable. Device nodes and named pipes are left
// out: no container may use the former, and rund must never open either when it
// looks for a user in the image's files: a pipe without a writer would hold it
// up for ever, and a device does what opening does to it.
func (s *Store) chownAll(ctx context.Context, root string) error {
	return filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if err := ctx.Err(); err != nil {
			return err
		}
		if path == filepath.Join(root, "proc") || path == filepath.Join(root, "sys") {
			if !d.IsDir() { // the runtime would refuse to mount there, again and again
				return rejectf("/%s of the image is not a directory", d.Name())
			}
		}
		if d.Type()&(fs.ModeDevice|fs.ModeNamedPipe) != 0 {
			return os.Remove(path)
		}
		fi, err := d.Info()
		if err != nil {
			return err
		}
		st, ok := fi.Sys().(*syscall.Stat_t)
		if !ok {
			return fmt.Errorf("no ownership of %s", path)
		}
		if st.Uid >= s.size || st.Gid >= s.size {
			if s.mapped(st.Uid) && s.mapped(st.Gid) && st.Nlink > 1 {
				return nil // another name of a file already done
			}
			rel, _ := filepath.Rel(root, path)
			return rejectf("file /%s belongs to %d:%d, outside the user namespace of %d ids (rund.userns.size)", rel, st.Uid, st.Gid, s.size)
		}
		return chown(path, fi, s.base+st.Uid, s.base+st.Gid)
	})
}

func (s *Store) mapped(id uint32) bool { return id >= s.base && id-s.base < s.size }
