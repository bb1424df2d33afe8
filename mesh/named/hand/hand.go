// Package hand is netd's half of how named gets its sockets: it makes two in the
// network namespace of each sandbox, keeps them, and hands them over the unix
// socket named-net.sock.
//
// netd says with Keep which sandboxes there are; the rest follows. The sockets
// stay open here as well, so that a query waits in them while named is started
// again. After a restart of netd named says what it has already; what it has in
// the right namespace is left to it. Until the first Keep nothing is taken from
// it.
//
//	h := hand.New(path, log)
//	go h.Run(ctx)           // and wait for it
//	h.Keep(map[string]hand.In{task: func(fn func() error) error { … }})
package hand

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"net"
	"slices"
	"sync"
	"time"

	"github.com/redoubt-cluster/redoubt/internal/wire"
	"github.com/redoubt-cluster/redoubt/mesh/named/namedpb"
)

// In runs fn on a thread in a sandbox's network namespace.
type In func(fn func() error) error

const (
	// Pause before a connection or a sandbox is tried again; it doubles from the
	// first to the second.
	firstPause, longestPause = 50 * time.Millisecond, 2 * time.Second
	// named takes no longer for a message, or it hangs.
	callWithin = 10 * time.Second
)

// Hand keeps the sockets of a node's sandboxes in named's hands.
type Hand struct {
	path string
	log  *slog.Logger
	news chan struct{} // capacity 1: wanted has changed

	mu     sync.Mutex
	wanted map[string]In    // guarded by mu; nil until the first Keep
	errs   map[string]error // guarded by mu: of sandboxes that named does not serve
	given  map[string]bool  // guarded by mu: what named serves

	made map[string]*sockets // of Run alone
}

// New returns a Hand that reaches named at path.
func New(path string, log *slog.Logger) *Hand {
	return &Hand{path: path, log: log, news: make(chan struct{}, 1), errs: map[string]error{}, given: map[string]bool{}, made: map[string]*sockets{}}
}

// Keep says which sandboxes there are, by task: all of them.
func (h *Hand) Keep(wanted map[string]In) {
	h.mu.Lock()
	h.wanted = maps.Clone(wanted)
	if h.wanted == nil {
		h.wanted = map[string]In{}
	}
	h.mu.Unlock()
	select {
	case h.news <- struct{}{}:
	default: // it will look anyway
	}
}

// Err is nil when named serves the sandbox of task.
func (h *Hand) Err(task string) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.given[task] {
		return nil
	}
	if err := h.errs[task]; err != nil {
		return err
	}
	return errors.New("named has not been given the sandbox yet")
}

// Run keeps named supplied until ctx ends, and then closes what it made: named
// has its own copies.
func (h *Hand) Run(ctx context.Context) error {
	defer func() {
		for _, s := range h.made {
			s.Close()
		}
		clear(h.made)
	}()
	pause := firstPause
	for {
		began := time.Now()
		err := h.session(ctx)
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if time.Since(began) > longestPause {
			pause = firstPause
		}
		h.log.Warn("named is away", "err", err)
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(pause):
		}
		pause = min(2*pause, longestPause)
	}
}

// session is one connection to named.
func (h *Hand) session(ctx context.Context) error {
	c, err := new(net.Dialer).DialContext(ctx, "unix", h.path)
	if err != nil {
		return err
	}
	conn := c.(*net.UnixConn)
	stop := context.AfterFunc(ctx, func() { conn.Close() })
	defer func() { stop(); conn.Close() }()
	conn.SetDeadline(time.Now().Add(callWithin))
	var hello namedpb.Hello
	if err := wire.Read(conn, &hello); err != nil {
		return err
	}
	conn.SetReadDeadline(time.Time{})
	held := map[string]uint64{}
	for _, x := range hello.GetHeld() {
		held[x.GetTaskId()] = x.GetNetns()
	}
	h.mu.Lock()
	clear(h.given)
	h.mu.Unlock()

	// The reader ends with the connection, and tells of its end at once.
	answers, ended := make(chan *namedpb.Handed), make(chan error, 1)
	quit := make(chan struct{})
	var reader sync.WaitGroup
	reader.Go(func() { ended <- read(conn, answers, quit) })
	defer func() { close(quit); conn.Close(); reader.Wait() }()
	call := func(m *namedpb.Hand, s *sockets) error {
		conn.SetWriteDeadline(time.Now().Add(callWithin))
		if err := s.send(conn, m); err != nil {
			return err
		}
		select {
		case a := <-answers:
			if a.GetError() != "" {
				return refused(a.GetError())
			}
			return nil
		case err := <-ended:
			return err
		case <-time.After(callWithin):
			return errors.New("named does not answer")
		}
	}
	var again <-chan time.Time
	pause := firstPause
	for {
		failed, err := h.sync(held, call)
		if err != nil {
			return err
		}
		again = nil
		if failed {
			again, pause = time.After(pause), min(2*pause, longestPause)
		} else {
			pause = firstPause
		}
		select {
		case <-h.news:
		case <-again:
		case err := <-ended:
			return err
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// refused is named's word about one sandbox; the connection is in order.
type refused string

func (r refused) Error() string { return string(r) }

func read(conn *net.UnixConn, answers chan<- *namedpb.Handed, quit <-chan struct{}) error {
	for {
		a := new(namedpb.Handed)
		if err := wire.Read(conn, a); err != nil {
			if errors.Is(err, io.EOF) {
				return errors.New("named closed the connection")
			}
			return err
		}
		select {
		case answers <- a:
		case <-quit:
			return nil
		}
	}
}

// sync brings what named holds to what is wanted. The error is one of the
// connection; failed tells that sandboxes are to be tried again.
func (h *Hand) sync(held map[string]uint64, call func(*namedpb.Hand, *sockets) error) (failed bool, err error) {
	h.mu.Lock()
	wanted := h.wanted
	h.mu.Unlock()
	if wanted == nil {
		return false, nil // a netd that does not know yet what there is
	}
	for task, s := range h.made {
		if wanted[task] == nil {
			s.Close()
			delete(h.made, task)
		}
	}
	for _, task := range slices.Sorted(maps.Keys(held)) {
		if wanted[task] != nil {
			continue
		}
		if err := call(&namedpb.Hand{Verb: &namedpb.Hand_Drop{Drop: &namedpb.Drop{TaskId: task}}}, nil); err != nil {
			return false, err
		}
		delete(held, task)
		h.note(task, false, nil)
	}
	for _, task := range slices.Sorted(maps.Keys(wanted)) {
		err := h.give(task, wanted[task], held, call)
		var r refused
		switch {
		case err == nil:
			h.note(task, true, nil)
		case errors.As(err, &r) || errors.Is(err, errSandbox):
			failed = true
			h.note(task, false, err)
		default:
			return false, err
		}
	}
	return failed, nil
}

// give hands one sandbox over, unless named has it.
func (h *Hand) give(task string, in In, held map[string]uint64, call func(*namedpb.Hand, *sockets) error) error {
	s := h.made[task]
	if have := held[task]; have != 0 {
		if s != nil && s.netns == have {
			return nil
		}
		now, err := cookie(in)
		if err != nil {
			return err
		}
		if now == have {
			return nil // made by an earlier netd, or not to be asked about again
		}
		// Of a namespace that is no more.
		if err := call(&namedpb.Hand{Verb: &namedpb.Hand_Drop{Drop: &namedpb.Drop{TaskId: task}}}, nil); err != nil {
			return err
		}
		delete(held, task)
		h.note(task, false, nil)
	}
	if s == nil {
		var err error
		if s, err = listen(in); err != nil {
			return err
		}
		h.made[task] = s
	}
	if err := call(&namedpb.Hand{Verb: &namedpb.Hand_Give{Give: &namedpb.Give{TaskId: task}}}, s); err != nil {
		return fmt.Errorf("hand over the sockets of task %s: %w", task, err)
	}
	held[task] = s.netns
	return nil
}

func (h *Hand) note(task string, given bool, err error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	known := h.errs[task]
	delete(h.errs, task)
	delete(h.given, task)
	if given {
		h.given[task] = true
	}
	if err != nil {
		h.errs[task] = err
	}
	if err != nil && (known == nil || known.Error() != err.Error()) {
		h.log.Warn("a sandbox has no names", "task", task, "err", err)
	}
}
