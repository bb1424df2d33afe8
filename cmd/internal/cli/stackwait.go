package cli

import (
	"context"
	"fmt"
	"io"
	"maps"
	"slices"
	"sync"

	"golang.org/x/sync/errgroup"
)

// lines is a writer of whole lines that several goroutines share.
type lines struct {
	mu sync.Mutex
	w  io.Writer
}

func (l *lines) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.w.Write(b)
}

// convergeAll waits for services (ids by name) at once, and returns what became of those
// that did not converge, in the order of their names; updated are the ids of those that
// are not to be rolled back. Progress is a line a change: there
// is not one place to redraw.
func (a *app) convergeAll(ctx context.Context, services map[string]string, updated map[string]bool, w waitFlags) []error {
	if _, err := a.openContext(); err != nil { // once, before several need it
		return []error{err}
	}
	out := &lines{w: a.Stderr}
	if w.quiet {
		out.w = io.Discard
	}
	names := slices.Sorted(maps.Keys(services))
	errs := make([]error, len(names)) // each by its goroutine alone
	var g errgroup.Group
	g.SetLimit(stackWatches)
	for i, name := range names {
		g.Go(func() error {
			w := w
			w.follows = followsTasks
			if updated[services[name]] {
				w.follows = followsUpdate
			}
			if err := a.convergeOne(ctx, services[name], w, &progress{w: out, of: name}); err != nil {
				errs[i] = fmt.Errorf("service %s: %w", name, err)
			}
			return nil
		})
	}
	g.Wait() // they return none: each has a place of its own
	return slices.DeleteFunc(errs, func(err error) bool { return err == nil })
}
