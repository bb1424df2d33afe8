package contexts

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"syscall"
	"time"
)

// lockRetry is how soon a lock that another command has is tried again.
const lockRetry = 50 * time.Millisecond

// ErrBusy says that another command had a lock for as long as was waited.
var ErrBusy = errors.New("another command is changing it")

// locked runs f while no other command changes that context.
func (s Store) locked(ctx context.Context, name string, f func() error) error {
	err := locked(ctx, filepath.Join(s.Dir, name), f)
	if errors.Is(err, ErrBusy) {
		return fmt.Errorf("context %q: %w", name, err)
	}
	return err
}

// locked runs f while no other command changes the file at path, and waits for one that
// does until ctx ends. The lock's file stays: it is what others wait at.
func locked(ctx context.Context, path string, f func() error) error {
	l, err := os.OpenFile(path+lockSuffix, os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return err
	}
	defer l.Close()
	for {
		err := syscall.Flock(int(l.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
		if err == nil {
			return f()
		}
		if !errors.Is(err, syscall.EWOULDBLOCK) && !errors.Is(err, syscall.EINTR) {
			return fmt.Errorf("%s: %w", l.Name(), err)
		}
		select {
		case <-ctx.Done():
			return ErrBusy
		case <-time.After(lockRetry):
		}
	}
}

// writable returns an error unless a file can be made in dir: the lock's may be there
// from a time when it could.
func writable(dir string) error {
	f, err := os.CreateTemp(dir, ".try-")
	if err != nil {
		return err
	}
	return errors.Join(f.Close(), os.Remove(f.Name()))
}
