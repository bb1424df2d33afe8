package raftstore

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"

	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/raft"
)

// Store is one manager's replica. All methods may be used concurrently.
type Store struct {
	cfg      Config
	halt     *halter
	fsm      *fsm
	files    *Storage
	mark     *watermark
	bind     *binder
	layer    *streamLayer
	trans    *transport
	progress *progress
	witness  *witness
	dormancy *dormancy
	opened   Reach
	raft     *raft.Raft
	tail     *tailLog
	edge     *edgeLog
	logs     raft.LogStore    // for Salvage, once raft is down
	stable   raft.StableStore // likewise
	terms    *termGuard
	stall    *stallWatch
	// gate is held alone to exchange the files for such as are sealed under a newer
	// key, and shared by who uses them.
	gate   sync.RWMutex
	sealed *sealedLog
	// rekeying has room for one.
	rekeying chan struct{}

	strangers *strangers
	levels    *levels

	proposer *proposer
	reads    *readGate
	lead     *leadership

	lost     chan string   // capacity 1: see failover.go
	moved    chan struct{} // capacity 1: a configuration was committed
	stopping chan struct{} // closed by Close or by the supervisor: no new work
	stopOnce sync.Once
	raftDown chan struct{} // closed when raft's goroutines have ended
	wg       sync.WaitGroup
	closing  atomic.Bool
	closed   chan struct{} // closed when Close has ended
	closeErr error         // written before closed is closed
}

// Open opens the store in c.Dir, or makes an empty one. It reads and opens the
// whole log first, so anything damaged, or a wrong key, is an error here.
// Without a configuration the store waits for Bootstrap, or to be added by a
// leader. It takes over c.Transport.Listener, also where it fails.
func Open(ctx context.Context, c Config) (_ *Store, err error) {
	defer func() {
		if err != nil && c.Transport.Listener != nil {
			err = errors.Join(err, ignoreClosed(c.Transport.Listener.Close()))
		}
	}()
	if err := c.complete(); err != nil {
		return nil, err
	}
	s := &Store{
		cfg: c, halt: newHalter(c.Logger), strangers: newStrangers(), levels: newLevels(), witness: newWitness(), dormancy: newDormancy(c.Dormant),
		lost: make(chan string, 1), moved: make(chan struct{}, 1), stopping: make(chan struct{}), raftDown: make(chan struct{}), closed: make(chan struct{}), stall: newStallWatch(),
		rekeying: make(chan struct{}, 1),
	}
	if s.fsm, err = newFSM(c.Tables, s.halt.stop); err != nil {
		return nil, err
	}
	s.fsm.reached = c.reached
	s.fsm.onConfiguration = func() {
		select {
		case s.moved <- struct{}{}:
		default:
		}
	}
	if err := errors.Join(os.MkdirAll(c.Dir, 0o700), os.Chmod(c.Dir, 0o700)); err != nil {
		return nil, fmt.Errorf("raftstore: %w", err)
	}
	bind := newBinder(&s.cfg)
	s.bind = bind
	s.fsm.archive = newArchive(filepath.Join(c.Dir, archiveDir), bind)
	if s.files, err = s.openFiles(bind); err != nil {
		return nil, fmt.Errorf("raftstore: %w", err)
	}
	if err := s.start(ctx, bind); err != nil {
		return nil, errors.Join(fmt.Errorf("raftstore: %w", err), s.files.Close())
	}
	return s, nil
}

func (s *Store) openFiles(bind *binder) (*Storage, error) {
	open := func() (*Storage, error) {
		f := &files{dir: s.cfg.Dir, bind: bind, halt: s.halt, logger: raftLogger(s.cfg.Logger),
			wrap: s.cfg.wrapStable, segmentBytes: s.cfg.segmentBytes}
		return f.open(s.cfg.LogStore)
	}
	if s.cfg.Storage != nil {
		return s.cfg.Storage(open)
	}
	return open()
}

// start builds raft over the sealed stores and starts the goroutines.
func (s *Store) start(ctx context.Context, bind *binder) error {
	mark := &watermark{file: s.files.Mark, bind: bind}
	sealed := &sealedLog{inner: &markedLog{guardedLog{s.files.Log}, mark}, bind: bind, halt: s.halt.storage, stall: s.stall, accept: s.fsm.accepts, gate: &s.gate}
	s.sealed = sealed
	s.terms = &termGuard{}
	stable := &sealedStable{inner: guardedStable{s.files.Stable}, bind: bind, halt: s.halt.storage, terms: s.terms, gate: &s.gate}
	if err := guarded(func() error {
		if err := mark.load(); err != nil {
			return err
		}
		if err := errors.Join(sealed.verify(ctx.Done()), stable.verify(), s.loadWitness(stable)); err != nil {
			return err
		}
		return s.finishBootstrap(sealed, stable)
	}); err != nil {
		return err
	}
	s.edge = newEdgeLog(newRecentLog(sealed, recentEntries, recentBytes), s.halt.storage)
	logs := newTailLog(s.edge, s.halt.storage)
	s.tail = logs
	logs.foresee = s.fsm.foresee
	s.fsm.settled = func(index uint64) error {
		if logs.settled(index) {
			return nil
		}
		return cmp.Or(s.halt.reason(), errTail)
	}
	s.mark = mark
	snaps := &markedSnapshots{s.files.Snapshots, mark, s.edge}
	s.logs, s.stable = logs, stable
	logger := raftLogger(s.cfg.Logger)
	s.progress = newProgress(s.witness)
	s.layer = newStreamLayer(s.cfg.Transport, s.noteLost)
	s.trans = newTransport(&s.cfg, s.layer, s.progress, s.dormancy, logs.before, logger, peerRules{admit: s.admitRPC, answer: s.answerHeartbeat, vouch: s.vouch, applied: s.reached, snapshot: s.snapshotApplied})
	if err := s.newRaft(logger, logs, &tailStable{&markedStable{stable, mark}, logs}, snaps); err != nil {
		return errors.Join(err, s.trans.Close())
	}
	commit := func() uint64 { return logs.before(s.raft.CommitIndex()) }
	s.witness.commit.Store(&commit)
	applied := s.raft.AppliedIndex
	s.edge.applied.Store(&applied)
	leads := func() bool { return s.raft.State() == raft.Leader }
	logs.leads.Store(&leads)
	s.wg.Go(func() { logs.run(s.raftDown) })
	s.proposer = newProposer(s.stopping, s.cfg.Clock.Now, s.clusterLevel, s.round)
	s.reads = newReadGate(s.stopping, s.verifyLeader)
	s.lead = newLeadership()
	s.wg.Go(s.trans.serve) // from now on: what comes in asks raft who may speak
	s.wg.Go(s.watchLeader)
	s.wg.Go(s.askForStrangers)
	s.wg.Go(s.proposer.run)
	s.wg.Go(s.reads.run)
	s.wg.Go(s.followLeadership)
	s.wg.Go(s.supervise)
	s.wg.Go(s.keepWitness)
	s.wg.Go(s.watchDisk)
	s.wg.Go(s.keepLevel)
	s.wg.Go(func() { s.fsm.archive.run(s.stopping) })
	return nil
}

// newRaft starts raft in a goroutine that a storage failure may end. Panics of
// raft's start become errors.
func (s *Store) newRaft(logger hclog.Logger, logs raft.LogStore, stable *tailStable, snaps raft.SnapshotStore) error {
	var err error
	started := make(chan struct{})
	go func() {
		defer close(started)
		err = guarded(func() (err error) {
			kept, err := snaps.List()
			if err != nil {
				return err
			}
			if err := errors.Join(s.mark.check(logs, stable.sealedStable, kept), checkWhole(logs, stable, kept)); err != nil {
				return err
			}
			if s.opened, err = reachOf(logs, stable.sealedStable, kept); err != nil {
				return err
			}
			for _, m := range kept {
				s.edge.note(m.Index, m.Term)
			}
			s.raft, err = raft.NewRaft(s.raftConfig(logger), s.fsm, logs, stable, snaps, s.trans)
			return err
		})
	}()
	<-started
	why := s.halt.reason() // more exact than what raft makes of it
	if why == nil {
		return err
	}
	if s.raft != nil {
		return errors.Join(why, s.raft.Shutdown().Error())
	}
	return why
}

func (s *Store) raftConfig(logger hclog.Logger) *raft.Config {
	conf := raft.DefaultConfig()
	conf.LocalID = raft.ServerID(s.cfg.NodeID)
	conf.HeartbeatTimeout = s.cfg.ElectionTimeout
	conf.ElectionTimeout = s.cfg.ElectionTimeout
	conf.LeaderLeaseTimeout = s.cfg.ElectionTimeout
	conf.CommitTimeout = s.cfg.CommitTimeout
	conf.MaxAppendEntries = maxAppendEntries
	conf.SnapshotThreshold = s.cfg.SnapshotThreshold
	conf.SnapshotInterval = s.cfg.SnapshotInterval
	conf.TrailingLogs = s.cfg.TrailingLogs
	conf.NoLegacyTelemetry = true
	conf.ShutdownOnRemove = false // a removed server follows on; its owner closes it
	conf.Logger = logger
	return conf
}

// View runs fn on a local snapshot. It takes no lock while fn runs.
func (s *Store) View(fn func(*ReadTx) error) error {
	r, err := s.fsm.read()
	if err != nil {
		return err
	}
	return fn(r)
}

// Watch runs snapshot on the current state and returns a watch whose first
// event is the first change after it. Without tables it watches all of them.
func (s *Store) Watch(snapshot func(*ReadTx) error, tables ...Registered) (*Watch, error) {
	if len(tables) == 0 {
		tables = s.fsm.order
	}
	for _, t := range tables {
		if _, ok := s.fsm.tables[t.Name()]; !ok {
			return nil, fmt.Errorf("raftstore: table %s is not registered with this store", t.Name())
		}
	}
	r, w, err := s.fsm.watch(tables)
	if err != nil {
		return nil, err
	}
	if snapshot != nil {
		if err := snapshot(r); err != nil {
			w.Close()
			return nil, err
		}
	}
	return w, nil
}

// Update runs fn on a snapshot and commits what it wrote: all of it or nothing.
// It works at the leader only. fn is run again where something it read by Get,
// or wrote, was changed meanwhile; it must be free of other effects. An error
// of fn is returned as it is.
func (s *Store) Update(ctx context.Context, fn func(*Tx) error) error {
	for range maxUpdateAttempts {
		if err := ctx.Err(); err != nil {
			return err
		}
		if err := s.lead.ready(ctx, s); err != nil {
			return err
		}
		tx, err := s.fsm.begin(s.cfg.Clock.Now())
		if err != nil {
			return err
		}
		if err := runTx(ctx, tx, fn); err != nil {
			return s.withBehind(err)
		}
		t, err := tx.encode()
		if err != nil || t == nil {
			return err
		}
		err = s.proposer.submit(ctx, t, tx.r.level)
		if !errors.Is(err, ErrConflict) {
			return s.explain(err)
		}
	}
	return ErrConflict
}

// runTx composes a transaction, with what it is conditional on and its record.
func runTx(ctx context.Context, tx *Tx, fn func(*Tx) error) error {
	defer func() { tx.done = true }()
	meet, err := conditionOf(ctx, tx)
	if err != nil {
		return err
	}
	if err := fn(tx); err != nil {
		return err
	}
	if meet != nil && (tx.writes() || tx.record != nil) {
		if err := meet(tx); err != nil {
			return err
		}
	}
	return tx.recordBy(ctx)
}

// explain prefers the reason why the store stopped over that it stopped.
func (s *Store) explain(err error) error {
	if err != nil {
		if why := s.halt.reason(); why != nil && errors.Is(err, ErrClosed) {
			return why
		}
	}
	return err
}

// round is one consensus round; it returns the state machine's answer.
func (s *Store) round(data []byte) (any, error) {
	f := s.raft.Apply(data, enqueueTimeout)
	if err := s.await(f); err != nil {
		return nil, err
	}
	return f.Response(), nil
}

// await waits for a future of raft, but not beyond raft's end: a future that is
// under way when a goroutine of raft is ended is never answered.
func (s *Store) await(f raft.Future) error {
	answer := make(chan error, 1)
	go func() { answer <- f.Error() }() // ends with the answer; see above for when there is none
	select {
	case err := <-answer:
		return err
	case <-s.raftDown:
	}
	select {
	case err := <-answer:
		return err
	default:
		return raft.ErrRaftShutdown
	}
}

// AppliedIndex is the index of the last entry that changed the local state.
func (s *Store) AppliedIndex() uint64 {
	s.fsm.mu.RLock()
	defer s.fsm.mu.RUnlock()
	return s.fsm.index
}

// reached is the term, and the last entry that raft gave to the state machine.
func (s *Store) reached() (term, index uint64) { return s.raft.CurrentTerm(), s.raft.AppliedIndex() }

// snapshotApplied is the last entry of the newest snapshot; 0 while the state
// machine is not that far, or raft does not run yet.
func (s *Store) snapshotApplied() (index, term uint64) {
	index, term = s.edge.newestEdge()
	if _, applied := s.reached(); index > applied {
		return 0, 0
	}
	return index, term
}

// LastIndex is the index of the last entry in the local log, on disk.
func (s *Store) LastIndex() uint64 { return s.tail.before(s.raft.LastIndex()) }

// Snapshot writes a snapshot now and drops the log entries it replaces, but for
// those kept for slow followers.
func (s *Store) Snapshot(ctx context.Context) error {
	err := s.awaitContext(ctx, s.raft.Snapshot())
	if errors.Is(err, raft.ErrNothingNewToSnapshot) {
		return nil
	}
	return err
}

func (s *Store) awaitContext(ctx context.Context, f raft.Future) error {
	answer := make(chan error, 1)
	go func() { answer <- s.await(f) }()
	select {
	case err := <-answer:
		return err
	case <-ctx.Done():
		return ctx.Err()
	}
}
