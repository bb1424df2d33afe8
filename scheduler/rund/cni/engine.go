package cni

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"sync"
	"time"

	"github.com/containernetworking/cni/libcni"

	"github.com/redoubt-cluster/redoubt/internal/ident"
	"github.com/redoubt-cluster/redoubt/internal/oneline"
	"github.com/redoubt-cluster/redoubt/scheduler/rund/cni/cnipb"
)

// Options say where an engine works.
type Options struct {
	Config Config
	// Netns is the directory of the sandboxes' network namespaces.
	Netns string
	// State is the directory of records; it must survive a reboot.
	State string
	// Bin is the directory that pinned plugins were copied to.
	Bin string
	Log *slog.Logger
	// CallTime and RetryMin, where set, take the place of the package's own.
	CallTime, RetryMin time.Duration
}

// Engine attaches sandboxes to networks, and detaches them whatever happens.
type Engine struct {
	o       Options
	run     *runner
	cni     *libcni.CNIConfig
	records records
	places  chan struct{}

	mu     sync.Mutex
	tasks  map[string]*turn // guarded by mu
	failed map[string]bool  // tasks with a DEL to be repeated. Guarded by mu
	check  []*record        // to be looked at by plugins. Guarded by mu
	wake   chan struct{}    // buffered 1; failed or check grew
}

// turn is taken by who works on a task.
type turn struct {
	mu    sync.Mutex
	users int // guarded by the engine's mu
}

// newEngine prepares an engine of what was installed in o.Bin.
func newEngine(o Options, installed map[string]bool, refused map[string]error, s *strays) (*Engine, error) {
	recs, err := openRecords(filepath.Join(o.State, "attachments"))
	if err != nil {
		return nil, err
	}
	run := &runner{bin: o.Bin, installed: installed, refused: refused, strays: s}
	return &Engine{o: o, run: run, records: recs, places: make(chan struct{}, parallel),
		cni:   libcni.NewCNIConfigWithCacheDir([]string{o.Bin}, filepath.Join(o.State, "cache"), run),
		tasks: map[string]*turn{}, failed: map[string]bool{}, wake: make(chan struct{}, 1)}, nil
}

// enter waits for a place and the task's turn; the result gives both back.
func (e *Engine) enter(ctx context.Context, task string) (leave func(), err error) {
	if !ident.Valid(task) {
		return nil, refuse("%.80q is no task id", task)
	}
	select {
	case e.places <- struct{}{}:
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	e.mu.Lock()
	t := e.tasks[task]
	if t == nil {
		t = &turn{}
		e.tasks[task] = t
	}
	t.users++
	e.mu.Unlock()
	t.mu.Lock()
	return func() {
		t.mu.Unlock()
		e.mu.Lock()
		if t.users--; t.users == 0 {
			delete(e.tasks, task)
		}
		e.mu.Unlock()
		<-e.places
	}, nil
}

// Attach puts a task's sandbox on networks, all or none, and off others. What it
// is on already stays as it is.
func (e *Engine) Attach(ctx context.Context, task string, networks []*cnipb.Network) ([]*cnipb.Attachment, error) {
	leave, err := e.enter(ctx, task)
	if err != nil {
		return nil, err
	}
	defer leave()
	lists := make([]*conflist, len(networks))
	seen := map[string]bool{}
	for i, n := range networks {
		if !ident.Valid(n.GetId()) || n.GetIndex() > 999 || seen[n.GetId()] || seen[ifname(n)] || i == maxNetworks {
			return nil, refuse("network %.80q is malformed, given twice, or one of more than %d", n.GetId(), maxNetworks)
		}
		seen[n.GetId()], seen[ifname(n)] = true, true
		// All are checked before anything is done.
		if lists[i], err = e.o.Config.load(n.GetConflist()); err != nil {
			return nil, err
		}
		for _, p := range lists[i].plugins {
			if _, err := e.run.FindInPath(p, nil); err != nil {
				return nil, err
			}
		}
	}
	netns := filepath.Join(e.o.Netns, task)
	sandbox, err := sandboxOf(netns)
	if err != nil {
		return nil, err
	}
	had, err := e.keepOf(ctx, task, sandbox, networks)
	if err != nil {
		return nil, err
	}
	var out []*cnipb.Attachment
	for i, n := range networks {
		rec := had[n.GetId()]
		if rec == nil {
			rec = &record{Task: task, Network: n.GetId(), Conflist: n.GetConflist(), Config: lists[i].list.Bytes, Interface: ifname(n), Sandbox: sandbox}
			if err := e.add(ctx, lists[i], rec, netns); err != nil {
				if ctx.Err() == nil { // else this process ends, and the next one does it
					_ = e.detachAll(ctx, task) // logged and repeated
				}
				return nil, err
			}
		}
		out = append(out, rec.attachment())
	}
	return out, nil
}

// keepOf returns those of a task's records that are as they should be, by
// network, and detaches the others: of an earlier sandbox, of an ADD that was cut
// off, of another conflist.
func (e *Engine) keepOf(ctx context.Context, task string, sandbox string, networks []*cnipb.Network) (map[string]*record, error) {
	list, err := e.records.of(task)
	if err != nil {
		return nil, err
	}
	keep := map[string]*record{}
	for _, rec := range list {
		for _, n := range networks {
			if rec.Added && rec.Sandbox == sandbox && rec.Network == n.GetId() && rec.Conflist == n.GetConflist() && rec.Interface == ifname(n) {
				keep[rec.Network] = rec
			}
		}
		if keep[rec.Network] == nil {
			if err := e.del(ctx, rec); err != nil {
				return nil, fmt.Errorf("what an earlier attempt left cannot be taken away: %w", err)
			}
		}
	}
	return keep, nil
}

func (e *Engine) add(ctx context.Context, l *conflist, rec *record, netns string) error {
	if err := e.records.put(rec); err != nil {
		return err
	}
	ctx, cancel := e.callContext(ctx)
	defer cancel()
	res, err := e.cni.AddNetworkList(ctx, l.list, rec.runtime(netns))
	if err == nil {
		err = rec.take(res)
	}
	if err != nil {
		return fmt.Errorf("conflist %s: %w", rec.Conflist, oneline.Error(err, maxSaid))
	}
	rec.Added = true
	return e.records.put(rec)
}

// Detach takes a task's sandbox off every network. What fails is repeated.
func (e *Engine) Detach(ctx context.Context, task string) error {
	leave, err := e.enter(ctx, task)
	if err != nil {
		return err
	}
	defer leave()
	return e.detachAll(ctx, task)
}

// detachAll is called in the task's turn.
func (e *Engine) detachAll(ctx context.Context, task string) error {
	list, err := e.records.of(task)
	errs := []error{err}
	for _, rec := range list {
		if err := e.del(ctx, rec); err != nil {
			e.o.Log.Warn("cannot detach, will try again", "task", task, "network", rec.Network, "err", err)
			errs = append(errs, err)
		}
	}
	if err = errors.Join(errs...); err != nil {
		e.later(nil, task)
	}
	return err
}

// later has Run detach tasks and look at records.
func (e *Engine) later(check []*record, tasks ...string) {
	e.mu.Lock()
	for _, t := range tasks {
		e.failed[t] = true
	}
	e.check = append(e.check, check...)
	e.mu.Unlock()
	select {
	case e.wake <- struct{}{}:
	default:
	}
}

// del repeats harmlessly: a plugin succeeds where there is nothing to take away.
func (e *Engine) del(ctx context.Context, rec *record) error {
	l, err := e.o.Config.check(rec.Conflist, rec.Config)
	if err != nil {
		return fmt.Errorf("conflist %s, as it was: %w", rec.Conflist, err)
	}
	// A sandbox that is gone, or another's by now, has nothing of it; plugins
	// give back the address without it.
	netns := filepath.Join(e.o.Netns, rec.Task)
	if now, err := sandboxOf(netns); err != nil || now != rec.Sandbox {
		netns = ""
	}
	ctx, cancel := e.callContext(ctx)
	defer cancel()
	if err := e.cni.DelNetworkList(ctx, l.list, rec.runtime(netns)); err != nil {
		return fmt.Errorf("conflist %s: %w", rec.Conflist, oneline.Error(err, maxSaid))
	}
	return e.records.remove(rec)
}

// Keep detaches all tasks but those, in its own time, and returns where those
// are.
func (e *Engine) Keep(tasks []string) []*cnipb.Attachment {
	list, err := e.records.all()
	if err != nil {
		e.o.Log.Error("what cannot be read is not detached: give its addresses back by hand, then remove it", "err", err)
	}
	var out []*cnipb.Attachment
	var check []*record
	var gone []string
	for _, rec := range list {
		switch {
		case !slices.Contains(tasks, rec.Task):
			gone = append(gone, rec.Task)
		case rec.Added:
			out, check = append(out, rec.attachment()), append(check, rec)
		}
	}
	e.later(check, gone...)
	return out
}

// checkOne has plugins look whether what they made is still there.
func (e *Engine) checkOne(ctx context.Context, rec *record) error {
	if rec.before040() {
		return nil // CHECK came later
	}
	leave, err := e.enter(ctx, rec.Task)
	if err != nil {
		return err
	}
	defer leave()
	now, err := e.records.read(filepath.Base(e.records.path(rec.Task, rec.Network)))
	if err != nil || !now.Added || now.Sandbox != rec.Sandbox {
		return nil // detached meanwhile
	}
	l, err := e.o.Config.check(rec.Conflist, rec.Config)
	if err != nil {
		return err
	}
	ctx, cancel := e.callContext(ctx)
	defer cancel()
	if err := e.cni.CheckNetworkList(ctx, l.list, rec.runtime(filepath.Join(e.o.Netns, rec.Task))); err != nil {
		return oneline.Error(err, maxSaid)
	}
	return nil
}

// Run repeats what failed, and looks at what Keep kept, until ctx ends.
func (e *Engine) Run(ctx context.Context) {
	first := e.o.RetryMin
	if first == 0 {
		first = retryMin
	}
	delay := first
	var again <-chan time.Time // nil: nothing failed
	for {
		due := false
		select {
		case <-ctx.Done():
			return
		case <-e.wake:
			due = again == nil
		case <-again:
			due = true
		}
		if !due {
			continue
		}
		e.mu.Lock()
		tasks, check := e.failed, e.check
		e.failed, e.check = map[string]bool{}, nil
		e.mu.Unlock()
		for _, rec := range check {
			if err := e.checkOne(ctx, rec); err != nil {
				e.o.Log.Warn("a plugin finds fault with what it made: the task should be made once more", "task", rec.Task, "network", rec.Network, "err", err)
			}
		}
		again = nil
		for task := range tasks {
			if e.Detach(ctx, task) != nil {
				again = time.After(delay)
			}
		}
		if again == nil {
			delay = first
		} else {
			delay = min(2*delay, retryMax)
		}
	}
}

var interfaceName = regexp.MustCompile(`^cni[0-9]{1,3}$`)

func validInterface(s string) bool { return interfaceName.MatchString(s) }

func ifname(n *cnipb.Network) string { return "cni" + strconv.FormatUint(uint64(n.GetIndex()), 10) }
