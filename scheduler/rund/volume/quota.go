package volume

import (
	"errors"
	"fmt"
	"hash/fnv"
	"os"
	"sync"
	"unsafe"

	"golang.org/x/sys/unix"
)

// quota bounds directories by project quotas, as ext4 and XFS have them: each volume is a
// project of its own, whose id is made of what its directory is.
type quota struct {
	missing string     // why it cannot; empty: it can
	mu      sync.Mutex // held from when a project is found free until it is used
}

// Of linux/quota.h and linux/fs.h.
const (
	projectQuota = 2
	getFormat    = 0x800004<<8 | projectQuota
	getQuota     = 0x800007<<8 | projectQuota
	setQuota     = 0x800008<<8 | projectQuota

	blockLimits = 1 // QIF_BLIMITS
	inodeLimits = 4 // QIF_ILIMITS
	blockSize   = 1 << 10

	// A volume may have an inode for so many bytes, as file systems are made with, and
	// so many more.
	bytesPerInode = 16 << 10
	minInodes     = 1 << 10

	fsGetXattr     = 0x801c581f // FS_IOC_FSGETXATTR
	fsSetXattr     = 0x401c5820 // FS_IOC_FSSETXATTR
	projectInherit = 0x200      // FS_XFLAG_PROJINHERIT
)

// fsxattr is struct fsxattr.
type fsxattr struct {
	flags, extSize, extents, project, cowExtSize uint32
	_                                            [8]byte
}

// dqblk is struct if_dqblk.
type dqblk struct {
	hard, soft, space              uint64
	inodesHard, inodesSoft, inodes uint64
	blockTime, inodeTime           uint64
	valid                          uint32
	_                              uint32
}

// probeQuota asks the file system that dir is on.
func probeQuota(dir *os.File) *quota {
	var format uint32
	err := quotactl(dir, getFormat, 0, unsafe.Pointer(&format))
	switch {
	case err == nil:
		return &quota{}
	case errors.Is(err, unix.ESRCH):
		return &quota{missing: "project quotas are not on there: make the file system of rund.volumes.path with them (mkfs.ext4 -O quota,project) and mount it with prjquota"}
	case errors.Is(err, unix.ENOSYS), errors.Is(err, unix.EOPNOTSUPP), errors.Is(err, unix.ENOTTY):
		return &quota{missing: "the kernel, or the file system of rund.volumes.path, has no project quotas: use ext4 or XFS with prjquota"}
	}
	return &quota{missing: fmt.Sprintf("whether there are project quotas cannot be told: %v", err)}
}

// set bounds dir, which is empty, and all that will be in it.
func (q *quota) set(dir *os.File, size int64) error {
	var x fsxattr
	if err := ioctl(dir, fsGetXattr, unsafe.Pointer(&x)); err != nil {
		return fmt.Errorf("bound it: %w", err)
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	project, err := q.free(dir)
	if err != nil {
		return err
	}
	b := limits(size)
	if err := quotactl(dir, setQuota, project, unsafe.Pointer(&b)); err != nil {
		return fmt.Errorf("bound it: %w", err)
	}
	x.project, x.flags = project, x.flags|projectInherit
	if err := ioctl(dir, fsSetXattr, unsafe.Pointer(&x)); err != nil {
		return fmt.Errorf("bound it: %w", err)
	}
	return nil
}

// limits are those of a volume of so many bytes. Files that hold nothing take the file
// system's inodes, which other volumes need as well.
func limits(size int64) dqblk {
	b := dqblk{hard: uint64((size + blockSize - 1) / blockSize), inodesHard: uint64(size/bytesPerInode) + minInodes, valid: blockLimits | inodeLimits}
	b.soft, b.inodesSoft = b.hard, b.inodesHard
	return b
}

// free is a project that holds nothing.
func (q *quota) free(dir *os.File) (uint32, error) {
	var st unix.Stat_t
	if err := unix.Fstat(int(dir.Fd()), &st); err != nil {
		return 0, err
	}
	h := fnv.New32a()
	fmt.Fprintf(h, "%d", st.Ino)
	for project, tries := h.Sum32(), 0; tries < 4*MaxVolumes; project, tries = project+1, tries+1 {
		if project == 0 || project == ^uint32(0) {
			continue
		}
		var b dqblk
		err := quotactl(dir, getQuota, project, unsafe.Pointer(&b))
		if errors.Is(err, unix.ENOENT) || err == nil && b.space == 0 && b.inodes == 0 {
			return project, nil
		}
		if err != nil {
			return 0, fmt.Errorf("bound it: %w", err)
		}
	}
	return 0, refuse("no project of the file system's quotas is free")
}

func quotactl(f *os.File, cmd uintptr, id uint32, arg unsafe.Pointer) error {
	if _, _, e := unix.Syscall6(unix.SYS_QUOTACTL_FD, f.Fd(), cmd, uintptr(id), uintptr(arg), 0, 0); e != 0 {
		return e
	}
	return nil
}

func ioctl(f *os.File, request uintptr, arg unsafe.Pointer) error {
	if _, _, e := unix.Syscall(unix.SYS_IOCTL, f.Fd(), request, uintptr(arg)); e != 0 {
		return e
	}
	return nil
}
