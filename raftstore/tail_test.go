package raftstore

import (
	"errors"
	"fmt"
	"runtime"
	"slices"
	"sync"
	"testing"
	"testing/synctest"

	"github.com/hashicorp/raft"
)

// heldLog is a disk whose writes wait to be let through, in their order.
type heldLog struct {
	*raft.InmemStore
	let chan error // what the next write ends with

	mu     sync.Mutex // guards writes
	writes [][]uint64 // indexes of each write that was let through
}

func (h *heldLog) StoreLogs(logs []*raft.Log) error {
	if err := <-h.let; err != nil {
		return err
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	var at []uint64
	for _, l := range logs {
		at = append(at, l.Index)
	}
	h.writes = append(h.writes, at)
	return h.InmemStore.StoreLogs(logs)
}

func (h *heldLog) has(index uint64) bool {
	last, _ := h.LastIndex() // of a log in memory: no error
	return last >= index
}

// tailBed is a tail over a held disk, in a bubble; all that runs in it ends with
// the test.
type tailBed struct {
	*tailLog
	t     *testing.T
	disk  *heldLog
	leads bool
	stop  chan struct{}
}

func inTail(t *testing.T, fn func(b *tailBed)) {
	synctest.Test(t, func(t *testing.T) {
		disk := &heldLog{InmemStore: raft.NewInmemStore(), let: make(chan error)}
		b := &tailBed{t: t, disk: disk, leads: true, stop: make(chan struct{})}
		b.tailLog = newTailLog(disk, func(err error) error {
			runtime.Goexit() // as the store's own
			return err
		})
		leads := func() bool { return b.leads }
		b.tailLog.leads.Store(&leads)
		go b.run(b.stop)
		defer func() {
			close(b.disk.let) // what is still to be written
			close(b.stop)
			<-b.done
		}()
		fn(b)
	})
}

func commands(first, last uint64) (out []*raft.Log) {
	for i := first; i <= last; i++ {
		out = append(out, &raft.Log{Index: i, Term: 1, Type: raft.LogCommand, Data: fmt.Append(nil, i)})
	}
	return out
}

// store stores what must go into the tail at once.
func (b *tailBed) store(first, last uint64) {
	b.t.Helper()
	if !b.returned(func() { _ = b.StoreLogs(commands(first, last)) }) {
		b.t.Fatalf("storing %d to %d waits for the disk", first, last)
	}
}

// returned reports whether f has returned, or ended its goroutine, though
// nothing is let through.
func (b *tailBed) returned(f func()) bool {
	done := b.begin(f)
	synctest.Wait()
	select {
	case <-done:
		return true
	default:
		return false
	}
}

func (b *tailBed) begin(f func()) <-chan struct{} {
	done := make(chan struct{})
	go func() {
		defer close(done)
		f()
	}()
	return done
}

func TestTailIsReadableAndCountsForNothing(t *testing.T) {
	inTail(t, func(b *tailBed) {
		b.store(1, 3)
		var l raft.Log
		for i := uint64(1); i <= 3; i++ {
			if err := b.GetLog(i, &l); err != nil || l.Index != i || string(l.Data) != fmt.Sprint(i) {
				t.Fatalf("entry %d: %v, %v", i, l, err)
			}
		}
		if err := b.GetLog(4, &l); !errors.Is(err, raft.ErrLogNotFound) {
			t.Fatalf("entry 4: %v", err)
		}
		if last, err := b.LastIndex(); err != nil || last != 3 {
			t.Fatalf("the last index is %d, %v", last, err)
		}
		if b.before(3) != 0 || b.before(0) != 0 {
			t.Fatalf("what nobody wrote is said to be written: %d", b.before(3))
		}
		if b.disk.has(1) {
			t.Fatal("the disk was not held")
		}
		if b.returned(func() { b.settled(1) }) {
			t.Fatal("entry 1 is settled before it is written")
		}
		b.store(4, 4) // while 1 to 3 are being written
		b.disk.let <- nil
		synctest.Wait()
		if b.before(9) != 3 || !b.settled(3) || b.returned(func() { b.settled(4) }) {
			t.Fatalf("after one write, %d is before the tail", b.before(9))
		}
		b.disk.let <- nil
		synctest.Wait()
		if b.before(9) != 9 || !b.settled(4) {
			t.Fatal("there is a tail though all is written")
		}
		if want := [][]uint64{{1, 2, 3}, {4}}; !slices.EqualFunc(b.disk.writes, want, slices.Equal) {
			t.Fatalf("the disk got %v, want %v", b.disk.writes, want)
		}
		if err := b.GetLog(2, &l); err != nil || l.Index != 2 {
			t.Fatalf("entry 2 after it was written: %v, %v", l, err)
		}
	})
}

// What must find no tail, and be on disk itself when it is done.
func TestTailIsWrittenFirst(t *testing.T) {
	last := func(kind raft.LogType) []*raft.Log { return []*raft.Log{{Index: 2, Term: 1, Type: kind}} }
	for what, do := range map[string]func(b *tailBed){
		"first entry of a term": func(b *tailBed) { _ = b.StoreLogs(last(raft.LogNoop)) },
		"configuration":         func(b *tailBed) { _ = b.StoreLog(last(raft.LogConfiguration)[0]) },
		"barrier":               func(b *tailBed) { _ = b.StoreLogs(last(raft.LogBarrier)) },
		"among commands": func(b *tailBed) {
			_ = b.StoreLogs(append(commands(2, 2), &raft.Log{Index: 3, Term: 1, Type: raft.LogConfiguration}))
		},
		"follower": func(b *tailBed) { b.leads = false; _ = b.StoreLogs(commands(2, 2)) },
		"cut":      func(b *tailBed) { _ = b.DeleteRange(1, 1) },
		"term": func(b *tailBed) {
			_ = (&tailStable{markedStableOf(b), b.tailLog}).SetUint64([]byte("CurrentTerm"), 7)
		},
		"vote": func(b *tailBed) {
			_ = (&tailStable{markedStableOf(b), b.tailLog}).Set([]byte("LastVoteCand"), []byte("x"))
		},
	} {
		t.Run(what, func(t *testing.T) {
			inTail(t, func(b *tailBed) {
				b.store(1, 1)
				done := b.begin(func() { do(b) })
				synctest.Wait()
				select {
				case <-done:
					t.Fatal("it did not wait for the tail")
				default:
				}
				if b.disk.has(1) {
					t.Fatal("the disk was not held")
				}
				b.disk.let <- nil // the tail
				switch what {
				case "cut":
					<-done
					if b.disk.has(1) {
						t.Fatal("what was cut off came back")
					}
				case "term", "vote":
					<-done
				default:
					synctest.Wait()
					select {
					case <-done:
						t.Fatal("it did not wait for its own write")
					default:
					}
					b.disk.let <- nil
					<-done
					if !b.disk.has(2) {
						t.Fatal("it is not on disk")
					}
				}
			})
		})
	}
}

// markedStableOf is a stable store in memory that fails when there is a tail.
func markedStableOf(b *tailBed) *markedStable {
	bind := &binder{sealer: clearSealer{}}
	stable := &sealedStable{inner: tailCheck{raft.NewInmemStore(), b}, bind: bind, halt: func(err error) error {
		b.t.Error(err)
		return err
	}}
	return &markedStable{stable, &watermark{}}
}

type tailCheck struct {
	*raft.InmemStore
	b *tailBed
}

func (c tailCheck) Set(key, val []byte) error {
	if !c.b.disk.has(1) {
		return errors.New("term or vote is written before the tail")
	}
	return c.InmemStore.Set(key, val)
}

type clearSealer struct{}

func (clearSealer) Seal(_ string, _, plain []byte) ([]byte, error)  { return plain, nil }
func (clearSealer) Open(_ string, _, sealed []byte) ([]byte, error) { return sealed, nil }
func (clearSealer) Name(key []byte) []byte                          { return key }

func TestTailThatCannotBeWritten(t *testing.T) {
	inTail(t, func(b *tailBed) {
		f, err := newFSM([]Registered{things}, func(error) {})
		if err != nil {
			t.Fatal(err)
		}
		f.settled = func(index uint64) error {
			if b.settled(index) {
				return nil
			}
			return errTail
		}
		b.store(1, 2)
		var answer any
		applied := b.begin(func() { answer = f.Apply(&raft.Log{Index: 1}) })
		b.disk.let <- errors.New("the disk is on fire")
		<-b.done
		<-applied
		if err, _ := answer.(error); !errors.Is(err, ErrUncertain) {
			t.Fatalf("the state machine answers %v", answer)
		}
		if _, err := f.Snapshot(); !errors.Is(err, errTail) {
			t.Fatalf("a snapshot is taken of a state that lacks an entry: %v", err)
		}
		if b.before(2) != 0 || b.settled(1) {
			t.Fatal("what was not written counts")
		}
		for what, do := range map[string]func(){
			"store":     func() { _ = b.StoreLogs(commands(3, 3)) },
			"noop":      func() { _ = b.StoreLogs([]*raft.Log{{Index: 3, Type: raft.LogNoop}}) },
			"delete":    func() { _ = b.DeleteRange(1, 1) },
			"set":       func() { _ = (&tailStable{markedStableOf(b), b.tailLog}).Set([]byte("k"), nil) },
			"setuint64": func() { _ = (&tailStable{markedStableOf(b), b.tailLog}).SetUint64([]byte("k"), 1) },
		} {
			went := false
			<-b.begin(func() { do(); went = true })
			if went {
				t.Errorf("%s: the goroutine goes on", what)
			}
		}
	})
}

func TestTailIsBounded(t *testing.T) {
	inTail(t, func(b *tailBed) {
		large := func(i uint64) []*raft.Log {
			return []*raft.Log{{Index: i, Type: raft.LogCommand, Data: make([]byte, maxTailBytes/2+1)}}
		}
		for i := uint64(1); i <= 2; i++ {
			if !b.returned(func() { _ = b.StoreLogs(large(i)) }) {
				t.Fatalf("entry %d waits", i)
			}
		}
		third := b.begin(func() { _ = b.StoreLogs(large(3)) })
		synctest.Wait()
		select {
		case <-third:
			t.Fatal("the tail grows without bound")
		default:
		}
		b.disk.let <- nil
		<-third
	})
}

// What is in the tail when raft has ended is written all the same.
func TestTailIsWrittenAtTheEnd(t *testing.T) {
	inTail(t, func(b *tailBed) {
		b.store(1, 1)
		close(b.stop)
		b.disk.let <- nil
		<-b.done
		if !b.disk.has(1) {
			t.Fatal("the tail was thrown away")
		}
		b.stop = make(chan struct{}) // inTail closes it
	})
}
