package control

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// Where the kernel has the user of a socket in its lists, and the number of one in
// that of sockets that stay on the machine.
const (
	ownerField     = 7
	unixInodeField = 6
)

// checkNoNetwork looks among the kernel's sockets of every kind that leaves the
// machine for those that keyd's descriptors are, and for those of its user. Each that
// it has must be among those that stay on the machine, as of some kinds there is no
// list. Who may not trace it sees those of its user alone.
func checkNoNetwork(ctx context.Context, n *Node, found *Found) error {
	all, err := n.daemons("redoubt-keyd")
	if err != nil {
		return err
	}
	p := all[0]
	uid, err := p.uid()
	if err != nil {
		return err
	}
	own, err := p.sockets()
	if err != nil && !errors.Is(err, fs.ErrPermission) {
		return err
	}
	found.Looked()
	for _, kind := range []string{"tcp", "tcp6", "udp", "udp6", "raw", "raw6", "packet"} {
		err := p.fields("net/"+kind, func(f []string) {
			for _, field := range f {
				if own[field] {
					found.Against("%s has a %s socket", p.Name, kind)
				}
			}
			if uid != 0 && len(f) > ownerField && f[ownerField] == strconv.Itoa(uid) {
				found.Against("%s's user has a %s socket", p.Name, kind)
			}
		})
		if err != nil && !errors.Is(err, fs.ErrNotExist) { // a kernel without that
			return err
		}
	}
	return p.stayHere(ctx, n, own, found)
}

// stayHere looks for the sockets that a process has among those that stay on the
// machine, of whichever daemon's networks: one may have been made in another's.
func (p Process) stayHere(ctx context.Context, n *Node, own map[string]bool, found *Found) error {
	if len(own) == 0 {
		return ctx.Err()
	}
	here := map[string]bool{}
	for _, d := range n.Daemons {
		err := d.fields("net/unix", func(f []string) {
			if len(f) > unixInodeField {
				here[f[unixInodeField]] = true
			}
		})
		if err != nil && !errors.Is(err, fs.ErrNotExist) { // it ended
			return err
		}
	}
	still, err := p.sockets() // what was closed meanwhile is on no list
	if err != nil {
		return err
	}
	for inode := range own {
		if still[inode] && !here[inode] {
			found.Against("%s has a socket (%s) that does not stay on the machine", p.Name, inode)
		}
	}
	return ctx.Err()
}

// sockets are the inodes of those that the process has.
func (p Process) sockets() (map[string]bool, error) {
	fds, err := os.ReadDir(filepath.Join(p.proc, "fd"))
	if err != nil {
		return nil, err
	}
	own := map[string]bool{}
	for _, fd := range fds {
		to, err := os.Readlink(filepath.Join(p.proc, "fd", fd.Name()))
		if errors.Is(err, fs.ErrPermission) {
			return nil, err
		}
		if err != nil {
			continue // closed meanwhile
		}
		if inode, ok := strings.CutPrefix(to, "socket:["); ok {
			own[strings.TrimSuffix(inode, "]")] = true
		}
	}
	return own, nil
}

func checkPrograms(_ context.Context, n *Node, found *Found) error {
	all, err := n.daemons(daemonNames...)
	if err != nil {
		return err
	}
	for _, p := range all {
		path, err := os.Readlink(filepath.Join(p.proc, "exe"))
		if errors.Is(err, fs.ErrPermission) {
			path, err = p.started(n.Proc, found)
		}
		if err != nil {
			return err
		}
		found.Looked()
		if gone, ok := strings.CutSuffix(path, " (deleted)"); ok {
			found.Against("%s runs a program that is not at %s any more", p.Name, gone)
			continue
		}
		for at := path; ; at = filepath.Dir(at) {
			fi, err := os.Lstat(at)
			if err != nil {
				return err
			}
			if owner(fi) != 0 || fi.Mode().Perm()&0o022 != 0 && fi.Mode()&os.ModeSticky == 0 {
				found.Against("%s: %s may be changed by others than root (owner %d, mode %04o)", p.Name, at, owner(fi), fi.Mode().Perm())
			}
			if at == filepath.Dir(at) {
				break
			}
		}
	}
	return nil
}

// started is the program that a process says it was started as, for those who may not
// trace it: they see by its age whether it is that one still.
func (p Process) started(proc string, found *Found) (string, error) {
	path := p.args[0]
	if !filepath.IsAbs(path) {
		return "", fmt.Errorf("%s (%d) does not say where its program is", p.Name, p.PID)
	}
	fi, err := os.Stat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return path + " (deleted)", nil
	}
	if err != nil {
		return "", err
	}
	since, err := p.since(proc)
	if err != nil {
		return "", err
	}
	if st, ok := fi.Sys().(*syscall.Stat_t); ok && time.Unix(st.Ctim.Unix()).After(since.Add(time.Second)) {
		found.Against("%s: %s was changed after it was started", p.Name, path)
	}
	return path, nil
}

// startField is where the kernel has when a process was started, behind its name.
const startField = 19

// ticks is when the process was started, as the kernel counts.
func (p Process) ticks() (string, error) {
	text, err := p.read("stat")
	if err != nil {
		return "", err
	}
	fields := strings.Fields(text[strings.LastIndexByte(text, ')')+1:])
	if len(fields) <= startField {
		return "", fmt.Errorf("%s (%d): the kernel does not say when it was started", p.Name, p.PID)
	}
	return fields[startField], nil
}

// hertz is what the kernel counts times of processes in, on every platform of ours.
const hertz = 100

// since is when the process was started.
func (p Process) since(proc string) (time.Time, error) {
	text, err := p.ticks()
	if err != nil {
		return time.Time{}, err
	}
	machine, err := Process{proc: proc}.read("stat")
	if err != nil {
		return time.Time{}, err
	}
	_, rest, _ := strings.Cut(machine, "\nbtime ")
	line, _, _ := strings.Cut(rest, "\n")
	boot, err := strconv.ParseInt(line, 10, 64)
	if err != nil {
		return time.Time{}, fmt.Errorf("%s (%d): the kernel does not say when it was started", p.Name, p.PID)
	}
	ticks, err := strconv.ParseInt(text, 10, 64)
	if err != nil {
		return time.Time{}, fmt.Errorf("%s (%d): %w", p.Name, p.PID, err)
	}
	return time.Unix(boot, 0).Add(time.Duration(ticks) * time.Second / hertz), nil
}
