package lab

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

const cgroupRoot = "/sys/fs/cgroup"

// systemGroup is the leaf below a host's cgroup for daemons and shims: on
// cgroup v2 a group with children must hold no process itself.
const systemGroup = "system"

// hierarchies returns the roots of the cgroup hierarchies: one on v2, one per
// controller on v1.
func hierarchies() ([]string, bool, error) {
	var st unix.Statfs_t
	if err := unix.Statfs(cgroupRoot, &st); err != nil {
		return nil, false, fmt.Errorf("%s: %w", cgroupRoot, err)
	}
	if st.Type == unix.CGROUP2_SUPER_MAGIC {
		return []string{cgroupRoot}, true, nil
	}
	points, err := mountPoints()
	if err != nil {
		return nil, false, err
	}
	var roots []string
	for _, p := range points {
		if (p.fstype == "cgroup" || p.fstype == "cgroup2") && strings.HasPrefix(p.path, cgroupRoot+"/") {
			roots = append(roots, p.path)
		}
	}
	return roots, false, nil
}

// procsGroup puts processes into a host's system cgroup.
type procsGroup struct {
	dir *os.File // cgroup v2
	v1  string   // its tasks file, cgroup v1
}

// systemCgroup makes h's system cgroup. On v1 it is in the pids hierarchy
// alone, which is enough to find every process of the host again.
func (l *Lab) systemCgroup(h Host) (*procsGroup, error) {
	roots, v2, err := hierarchies()
	if err != nil {
		return nil, err
	}
	root := ""
	for _, r := range roots {
		if v2 || filepath.Base(r) == "pids" {
			root = r
		}
	}
	if root == "" {
		return nil, errors.New("no cgroup hierarchy with the pids controller is mounted at " + cgroupRoot + ": the lab needs it")
	}
	path := filepath.Join(root, l.CgroupOf(h), systemGroup)
	if err := os.MkdirAll(path, 0o755); err != nil {
		return nil, err
	}
	if !v2 {
		return &procsGroup{v1: filepath.Join(path, "tasks")}, nil
	}
	dir, err := os.Open(path)
	return &procsGroup{dir: dir}, err
}

// join makes the next child of the calling thread a member.
func (g *procsGroup) join(attr *syscall.SysProcAttr) error {
	if g.dir != nil {
		attr.UseCgroupFD, attr.CgroupFD = true, int(g.dir.Fd())
		return nil
	}
	// v1 moves single threads: this one, which is thrown away afterwards.
	return os.WriteFile(g.v1, []byte(strconv.Itoa(unix.Gettid())), 0)
}

func (g *procsGroup) close() {
	if g.dir != nil {
		g.dir.Close()
	}
}

// cgroupMembers returns the pids in the cgroup rel and below, in any hierarchy.
func cgroupMembers(rel string) (map[int]bool, error) {
	roots, _, err := hierarchies()
	if err != nil {
		return nil, err
	}
	pids := map[int]bool{}
	for _, r := range roots {
		err := filepath.WalkDir(filepath.Join(r, rel), func(path string, d fs.DirEntry, err error) error {
			if errors.Is(err, fs.ErrNotExist) {
				return nil
			}
			if err != nil || d.Name() != "cgroup.procs" {
				return err
			}
			b, err := os.ReadFile(path)
			if err != nil && !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, unix.ENODEV) {
				return err
			}
			for s := range strings.FieldsSeq(string(b)) {
				if pid, err := strconv.Atoi(s); err == nil && pid > 1 {
					pids[pid] = true
				}
			}
			return nil
		})
		if err != nil {
			return nil, err
		}
	}
	return pids, nil
}

// removeCgroups removes the cgroup rel with all below, in every hierarchy, and
// the common parent when this was the last.
func removeCgroups(rel string) error {
	roots, _, err := hierarchies()
	if err != nil {
		return err
	}
	var errs []error
	for _, r := range roots {
		var dirs []string
		filepath.WalkDir(filepath.Join(r, rel), func(path string, d fs.DirEntry, err error) error {
			if err == nil && d.IsDir() {
				dirs = append(dirs, path)
			}
			return nil
		})
		for i := len(dirs) - 1; i >= 0; i-- {
			if err := unix.Rmdir(dirs[i]); err != nil && !errors.Is(err, unix.ENOENT) {
				errs = append(errs, fmt.Errorf("remove cgroup %s: %w", dirs[i], err))
			}
		}
		// Fails while another lab is there, as it should.
		for p := filepath.Dir(rel); p != "."; p = filepath.Dir(p) {
			unix.Rmdir(filepath.Join(r, p))
		}
	}
	return errors.Join(errs...)
}
