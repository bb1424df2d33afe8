package netns

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strings"

	"github.com/redoubt-cluster/redoubt/internal/ident"
	"golang.org/x/sys/unix"
)

// networkPrefix begins the file of a network's namespace. No task's id has a
// hyphen.
const networkPrefix = "net-"

// Ingress stands for an id: all ingress networks of a node share one namespace.
const Ingress = "ingress"

// IsNetwork reports whether something is the id of a network with a namespace.
func IsNetwork(id string) bool { return id == Ingress || ident.Valid(id) }

// NetworkPath of a network's namespace.
func (s *Store) NetworkPath(id string) string { return filepath.Join(s.dir, networkPrefix+id) }

// CreateNetwork makes and pins the namespace of a network, with nothing in it.
// Its owner is the host's user namespace and not one of a container's: what is
// root in a container is nothing there. One that exists is kept.
func (s *Store) CreateNetwork(id string) error {
	if !IsNetwork(id) {
		return fmt.Errorf("%.60q is no id of a network", id)
	}
	path := s.NetworkPath(id)
	if isNamespace(path) {
		return nil
	}
	if err := unpin(path); err != nil { // left by a crash between create and bind
		return err
	}
	return onSpareThread(func() error {
		if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
			return fmt.Errorf("make a network namespace: %w", err)
		}
		return pin("/proc/thread-self/ns/net", path, false)
	})
}

// RemoveNetwork unpins the namespace of a network; one without is no error. What
// is in it goes with the last that uses it.
func (s *Store) RemoveNetwork(id string) error {
	if !IsNetwork(id) {
		return fmt.Errorf("%.60q is no id of a network", id)
	}
	return unpin(s.NetworkPath(id))
}

// Networks are the ids of those with a file, be it a namespace or what a crash
// left.
func (s *Store) Networks() ([]string, error) {
	entries, err := os.ReadDir(s.dir)
	if err != nil {
		return nil, err
	}
	var ids []string
	for _, e := range entries {
		if id, ok := strings.CutPrefix(e.Name(), networkPrefix); ok && IsNetwork(id) {
			ids = append(ids, id)
		}
	}
	return ids, nil
}

// SyncNetworks makes what ids lack, and removes others unless keep is set. The
// errors are by network; those of removals are joined in err.
func (s *Store) SyncNetworks(ids []string, keep bool) (failed map[string]string, err error) {
	failed = map[string]string{}
	wanted := map[string]bool{}
	for _, id := range ids {
		wanted[id] = true
		if cerr := s.CreateNetwork(id); cerr != nil {
			failed[id] = cerr.Error()
		}
	}
	if keep {
		return failed, nil
	}
	there, err := s.Networks()
	for _, id := range there {
		if !wanted[id] {
			err = errors.Join(err, s.RemoveNetwork(id))
		}
	}
	return failed, err
}

// onSpareThread runs f on a thread that ends afterwards. It must not be the main
// one, which never ends: /proc/self would show its namespaces.
func onSpareThread(f func() error) error {
	done := make(chan error, 1)
	go func() {
		runtime.LockOSThread()
		if unix.Gettid() == os.Getpid() {
			err := onSpareThread(f) // elsewhere, as this thread is held
			runtime.UnlockOSThread()
			done <- err
			return
		}
		done <- f() // never unlocked: the thread ends with the goroutine
	}()
	return <-done
}
