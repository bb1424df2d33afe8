package raftstore

import (
	"log/slog"
	"runtime"
	"sync"
)

// halter records why a store stopped. Raft panics when its log or stable store
// fails, in goroutines of its own, where nobody can recover: the process would
// die with a stack trace in place of a reason. The halter ends such a goroutine
// with runtime.Goexit before raft sees the error. Raft goes no step further on
// a record it could not read or write, its deferred functions run, and the
// owner of the store is told by Done and Err.
type halter struct {
	log *slog.Logger

	once sync.Once
	done chan struct{} // closed by the first stop
	err  error         // written before done is closed
}

func newHalter(log *slog.Logger) *halter { return &halter{log: log, done: make(chan struct{})} }

// stop records the first reason; nil is an orderly end.
func (h *halter) stop(err error) {
	h.once.Do(func() {
		h.err = err
		if err != nil {
			h.log.Error("the replicated store has stopped", "err", err)
		}
		close(h.done)
	})
}

// storage is called by the sealing wrappers when the disk failed them. It does
// not return: call it in goroutines of raft only, and without a lock.
func (h *halter) storage(err error) error {
	h.stop(err)
	runtime.Goexit()
	return err // not reached
}

// reason is why the store stopped: nil while it runs or after an orderly end.
func (h *halter) reason() error {
	select {
	case <-h.done:
		return h.err
	default:
		return nil
	}
}
