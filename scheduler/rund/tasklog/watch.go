package tasklog

import (
	"context"
	"encoding/binary"
	"errors"
	"io/fs"
	"os"
	"sync"

	"golang.org/x/sys/unix"
)

// A user may have 128 inotify instances by default, and what one machine's root
// has is shared by all of its services. So all readers that follow have one
// together, which is there while any of them is.
var (
	watching sync.Mutex // guards shared and every notifier's watches
	shared   *notifier
)

// notifier is one inotify instance.
type notifier struct {
	f       *os.File
	fd      int // of f, which stays open while a watcher is in watches
	watches map[int32]map[*watcher]bool
	done    chan struct{} // closed when pump has ended
}

// watcher wakes a reader when a file in the directory changes.
type watcher struct {
	n     *notifier
	wd    int32
	woken chan struct{} // buffered 1; closed by the pump when watching failed
}

func newWatcher(dir string) (*watcher, error) {
	watching.Lock()
	defer watching.Unlock()
	n := shared
	if n == nil {
		fd, err := unix.InotifyInit1(unix.IN_CLOEXEC | unix.IN_NONBLOCK)
		if err != nil {
			return nil, &fs.PathError{Op: "watch", Path: dir, Err: err}
		}
		n = &notifier{f: os.NewFile(uintptr(fd), "inotify"), fd: fd, watches: map[int32]map[*watcher]bool{}, done: make(chan struct{})}
	}
	// Of a directory that is watched it returns the number that it has.
	wd, err := unix.InotifyAddWatch(n.fd, dir, unix.IN_MODIFY|unix.IN_CREATE|unix.IN_MOVED_TO|unix.IN_ONLYDIR)
	if err != nil {
		err = &fs.PathError{Op: "watch", Path: dir, Err: err}
		if shared == nil {
			err = errors.Join(err, n.f.Close())
		}
		return nil, err
	}
	if shared == nil {
		shared = n
		go n.pump()
	}
	w := &watcher{n, int32(wd), make(chan struct{}, 1)}
	if n.watches[w.wd] == nil {
		n.watches[w.wd] = map[*watcher]bool{}
	}
	n.watches[w.wd][w] = true
	return w, nil
}

// pump ends when the last watcher closes f.
func (n *notifier) pump() {
	defer close(n.done)
	buf := make([]byte, 16<<10)
	for {
		k, err := n.f.Read(buf)
		watching.Lock()
		if err != nil {
			n.fail()
		} else {
			n.wake(buf[:k])
		}
		watching.Unlock()
		if err != nil {
			return
		}
	}
}

// wake reads struct inotify_event: number, mask, cookie, length of the name that
// follows.
func (n *notifier) wake(events []byte) {
	for len(events) >= unix.SizeofInotifyEvent {
		wd := int32(binary.NativeEndian.Uint32(events))
		mask := binary.NativeEndian.Uint32(events[4:])
		size := unix.SizeofInotifyEvent + int(binary.NativeEndian.Uint32(events[12:]))
		events = events[min(size, len(events)):]
		if mask&unix.IN_Q_OVERFLOW != 0 { // whose events were lost is not said
			for wd := range n.watches {
				n.wakeAll(wd)
			}
			continue
		}
		n.wakeAll(wd)
		if mask&unix.IN_IGNORED != 0 { // the directory is gone, its number with it
			for w := range n.watches[wd] {
				w.wd = -1
			}
			delete(n.watches, wd)
		}
	}
}

func (n *notifier) wakeAll(wd int32) {
	for w := range n.watches[wd] {
		select {
		case w.woken <- struct{}{}:
		default:
		}
	}
}

// fail tells those that are left, and makes way for another.
func (n *notifier) fail() {
	for _, ws := range n.watches {
		for w := range ws {
			close(w.woken)
		}
	}
	n.watches = nil
	if shared == n {
		shared = nil
		n.f.Close()
	}
}

func (w *watcher) close() {
	n := w.n
	watching.Lock()
	if ws := n.watches[w.wd]; ws[w] {
		delete(ws, w)
		if len(ws) == 0 {
			delete(n.watches, w.wd)
			_, _ = unix.InotifyRmWatch(n.fd, uint32(w.wd)) // or the directory is gone already
		}
	}
	last := shared == n && len(n.watches) == 0
	if last {
		shared = nil
		n.f.Close()
	}
	watching.Unlock()
	if last {
		<-n.done
	}
}

// wait returns when something changed, or with ended when done is closed.
func (w *watcher) wait(ctx context.Context, done <-chan struct{}) (ended bool, err error) {
	select {
	case <-ctx.Done():
		return false, ctx.Err()
	case <-done:
		return true, nil
	case _, ok := <-w.woken:
		if !ok {
			return false, errors.New("watching the log failed: ask again")
		}
		return false, nil
	}
}
