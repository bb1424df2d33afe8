package lab

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"

	"golang.org/x/sys/unix"
)

// Options of a new lab.
type Options struct {
	Name              string
	Managers, Workers int
	// CNI gives hosts Debian's CNI plugins and a conflist.
	CNI bool
	// FIPS starts hosts in FIPS mode.
	FIPS bool
	// BinDir holds Redoubt's binaries.
	BinDir string
	// Log gets a line per step; it may be nil.
	Log func(format string, args ...any)
}

func (o *Options) check() error {
	if err := CheckName(o.Name); err != nil {
		return err
	}
	switch {
	case o.Managers < 1:
		return fmt.Errorf("%d managers: a cluster needs at least one", o.Managers)
	case o.Workers < 0:
		return fmt.Errorf("%d workers: give 0 or more", o.Workers)
	case o.Managers+o.Workers > maxHosts:
		return fmt.Errorf("%d hosts: a lab has at most %d", o.Managers+o.Workers, maxHosts)
	}
	return nil
}

// create reserves a number, makes the directories and writes the state file
// before anything else exists, so that Down always knows what to remove.
func create(o Options) (*Lab, error) {
	unlock, err := lock(dataRoot)
	if err != nil {
		return nil, err
	}
	defer unlock()
	if _, err := os.Lstat(filepath.Join(dataRoot, o.Name)); err == nil {
		return nil, fmt.Errorf("there is a lab called %q already: remove it with `redoubt lab down --name %[1]s`, or use another --name", o.Name)
	}
	l := &Lab{Name: o.Name, CNI: o.CNI, FIPS: o.FIPS}
	if l.Number, err = freeNumber(); err != nil {
		return nil, err
	}
	for i := range o.Managers {
		l.Hosts = append(l.Hosts, Host{fmt.Sprintf("manager-%d", i+1), "manager", len(l.Hosts) + 1})
	}
	for i := range o.Workers {
		l.Hosts = append(l.Hosts, Host{fmt.Sprintf("worker-%d", i+1), "worker", len(l.Hosts) + 1})
	}
	for _, d := range []string{l.Dir(), runRoot, l.RunDir()} {
		if err := os.MkdirAll(d, 0o711); err != nil {
			return nil, err
		}
		if err := os.Chmod(d, 0o711); err != nil {
			return nil, err
		}
	}
	return l, l.save()
}

// freeNumber returns a number no lab has and whose subnet this machine does
// not know.
func freeNumber() (int, error) {
	names, err := List()
	if err != nil {
		return 0, err
	}
	taken := map[int]bool{}
	for _, n := range names {
		// One whose state is damaged still has its bridge, and with it a route.
		if other, err := Open(n); err == nil {
			taken[other.Number] = true
		}
	}
	used, err := usedSubnets()
	if err != nil {
		return 0, err
	}
	for n := range maxLabs {
		own := (&Lab{Number: n}).Subnet()
		if !taken[n] && !slices.ContainsFunc(used, func(p netip.Prefix) bool { return p.Overlaps(own) }) {
			return n, nil
		}
	}
	return 0, errors.New("no subnet is free for a lab: remove one with `redoubt lab down`")
}

// lock takes the lock of labs' creation and removal.
func lock(dir string) (func(), error) {
	if err := os.MkdirAll(dir, 0o711); err != nil {
		return nil, err
	}
	f, err := os.Open(dir)
	if err != nil {
		return nil, err
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX); err != nil {
		f.Close()
		return nil, err
	}
	return func() { f.Close() }, nil
}
