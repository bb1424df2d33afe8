package control

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"strconv"
	"time"

	"golang.org/x/sys/unix"
)

// checkConfined holds all processes of each container against what it was started as:
// the first as the node's /proc has it, the others as the container's own has them, and
// so also who was put there by hand. What the runtime starts for a check of health has
// all rights for an instant, so that who has too many is looked at again.
func checkConfined(ctx context.Context, n *Node, found *Found) error {
	all, err := n.Containers()
	if err != nil {
		return err
	}
	found.Looked()
	suspects := map[string]map[string][]string{}
	for _, c := range all {
		if c.PID == 0 {
			continue
		}
		found.Looked()
		p := c.first(n)
		err := c.confined(p, found)
		if err == nil {
			suspects[c.Task], err = c.beyond(n, p)
		}
		if err != nil && !ended(err) {
			return err
		}
	}
	if maps.DeleteFunc(suspects, func(_ string, s map[string][]string) bool { return len(s) == 0 }); len(suspects) == 0 {
		return nil
	}
	select {
	case <-time.After(runtimeTime):
	case <-ctx.Done():
		return ctx.Err()
	}
	for _, c := range all {
		if suspects[c.Task] == nil {
			continue
		}
		still, err := c.beyond(n, c.first(n))
		if err != nil && !ended(err) {
			return err
		}
		for _, id := range sorted(still) {
			if suspects[c.Task][id] != nil {
				for _, why := range still[id] {
					found.Against("%s", why)
				}
			}
		}
	}
	return nil
}

// first is the container's first process.
func (c Container) first(n *Node) Process {
	return Process{Name: "task " + c.Task, PID: c.PID, proc: filepath.Join(n.Proc, strconv.Itoa(c.PID))}
}

// ended reports whether an error is that of a process that went meanwhile.
func ended(err error) bool { return errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ESRCH) }

// beyond says what is wrong with each process of the container but the first, by its
// number and when it was started.
func (c Container) beyond(n *Node, first Process) (all map[string][]string, err error) {
	if c.Inside == nil {
		return c.inside(n, first)
	}
	if e := c.Inside(func() error { all, err = c.inside(n, first); return nil }); e != nil {
		return nil, e
	}
	return all, err
}

func (c Container) inside(n *Node, first Process) (map[string][]string, error) {
	dir := filepath.Join(first.proc, "root", "proc")
	if _, err := os.Lstat(dir); err != nil {
		return nil, err
	}
	if !sameKind(dir, n.Proc) {
		return nil, fmt.Errorf("%s has no /proc of the kernel's", first.Name)
	}
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, err
	}
	all := map[string][]string{}
	for _, e := range entries {
		pid, err := strconv.Atoi(e.Name())
		if err != nil || pid == 1 {
			continue
		}
		p := Process{Name: fmt.Sprintf("%s, its process %d", first.Name, pid), PID: pid, proc: filepath.Join(dir, e.Name())}
		var own Found
		err = c.held(p, &own)
		if err != nil && ended(err) {
			continue
		}
		if err != nil {
			return nil, err
		}
		if len(own.against) > 0 {
			since, err := p.ticks()
			if err == nil {
				all[e.Name()+" "+since] = own.against
			}
		}
	}
	return all, nil
}

// sameKind reports whether two directories are in file systems of one kind.
func sameKind(a, b string) bool {
	var x, y unix.Statfs_t
	return unix.Statfs(a, &x) == nil && unix.Statfs(b, &y) == nil && x.Type == y.Type
}
