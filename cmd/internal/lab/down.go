package lab

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sync/errgroup"
)

// Down removes the lab called name with all it made, from whatever state it is
// in. A lab that is not there is no error.
func Down(ctx context.Context, name string) error {
	if err := CheckName(name); err != nil {
		return err
	}
	unlock, err := lock(dataRoot)
	if err != nil {
		return err
	}
	defer unlock()
	l, err := Open(name)
	if err != nil {
		// No usable state file: what can be found by name alone is removed.
		if l, err = guess(name); err != nil {
			return err
		}
	}
	g, gctx := errgroup.WithContext(ctx)
	for _, h := range l.Hosts {
		g.Go(func() error { return l.killAll(gctx, h) })
	}
	if err := errors.Join(g.Wait(), l.stopRegistry()); err != nil {
		return err
	}
	var errs []error
	for _, h := range l.Hosts {
		errs = append(errs, l.removeNamespaces(h))
	}
	errs = append(errs, l.removeLinks(),
		await(ctx, downWait, "cgroups", func(context.Context) error { return removeCgroups(filepath.Join(cgroup, name)) }),
		removeTree(l.RunDir()))
	if err := errors.Join(errs...); err != nil {
		return err // the state file stays, so that Down can be repeated
	}
	if err := removeTree(l.Dir()); err != nil {
		return err
	}
	os.Remove(runRoot) // fails while another lab is there, as it should
	return nil
}

// guess rebuilds a lab from the names of what it left.
func guess(name string) (*Lab, error) {
	l := &Lab{Name: name, Number: -1}
	prefix := "rdt-" + name + "-"
	seen := map[string]bool{}
	for dir, cut := range map[string]string{netnsDir: prefix, l.Dir(): "", l.RunDir(): ""} {
		entries, err := os.ReadDir(dir)
		if err != nil && !errors.Is(err, os.ErrNotExist) {
			return nil, err
		}
		for _, e := range entries {
			host, ok := strings.CutPrefix(e.Name(), cut)
			if ok && hostForm.MatchString(host) && !seen[host] {
				seen[host] = true
				l.Hosts = append(l.Hosts, Host{Name: host})
			}
		}
	}
	if len(l.Hosts) > maxHosts*2 {
		return nil, fmt.Errorf("lab %s left more than a lab can: look at %s", name, l.Dir())
	}
	return l, nil
}
