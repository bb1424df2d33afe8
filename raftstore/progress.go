package raftstore

import (
	"io"
	"maps"
	"sync"
	"time"

	"github.com/hashicorp/raft"
)

// Progress is how far a peer has followed this server, as the peer's own
// answers say. Raft keeps that to itself, so it is read off the wire.
type Progress struct {
	// Index and Term are of the last entry that the peer is known to hold in
	// common with this server; zero until it has confirmed one.
	Index, Term uint64
	// Contact is when the peer last answered.
	Contact time.Time
	// Followed is when the latest request was sent that the peer, by its answer,
	// followed as one of its leader.
	Followed time.Time
}

// progress keeps what peers have confirmed. What was learned under one term is
// forgotten with it: a later leader may have to overwrite a follower's tail.
type progress struct {
	witness *witness

	mu    sync.Mutex
	term  uint64 // guarded by mu; of the requests that what follows is from
	peers map[raft.ServerID]Progress
}

func newProgress(w *witness) *progress {
	return &progress{witness: w, peers: map[raft.ServerID]Progress{}}
}

// confirm notes an answer to a request of the given term; index is zero where
// the answer confirms no entry, as that to a heartbeat.
func (p *progress) confirm(id raft.ServerID, term, index, indexTerm uint64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	switch {
	case term < p.term:
		return
	case term > p.term:
		p.term = term
		clear(p.peers)
	}
	now := p.peers[id]
	now.Contact = time.Now()
	if index > now.Index {
		now.Index, now.Term = index, indexTerm
	}
	p.peers[id] = now
}

func (p *progress) all() map[raft.ServerID]Progress {
	p.mu.Lock()
	defer p.mu.Unlock()
	return maps.Clone(p.peers)
}

// Progress returns how far each peer has followed while this server leads, by
// id. A peer that never answered in this term is missing.
func (s *Store) Progress() map[string]Progress {
	out := map[string]Progress{}
	for id, p := range s.progress.all() {
		out[string(id)] = p
	}
	return out
}

// watchedTransport is raft's transport with an eye on the answers of peers.
type watchedTransport struct {
	*raft.NetworkTransport
	progress *progress
	dormancy *dormancy
	// written is the given index, or a lower one up to which this server has
	// written its log: it calls nothing committed that it lacks itself.
	written func(uint64) uint64
}

// answered notes the answer to one request for entries.
func (p *progress) answered(id raft.ServerID, sent time.Time, args *raft.AppendEntriesRequest, resp *raft.AppendEntriesResponse) {
	if resp.Term > args.Term {
		p.witness.note(string(id), Reach{Term: resp.Term})
		return // the peer knows of a later leader
	}
	var index, term uint64
	if resp.Success {
		// A heartbeat has neither entries nor an entry before them.
		index, term = args.PrevLogEntry, args.PrevLogTerm
		if n := len(args.Entries); n > 0 {
			index, term = args.Entries[n-1].Index, args.Entries[n-1].Term
		}
	}
	p.confirm(id, args.Term, index, term)
	p.witness.confirmed(id, resp.Term, index)
	if resp.Success {
		p.followed(id, args.Term, sent)
	}
}

func (p *progress) followed(id raft.ServerID, term uint64, sent time.Time) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if now := p.peers[id]; term == p.term && sent.After(now.Followed) {
		now.Followed = sent
		p.peers[id] = now
	}
}

// followedSince reports whether a majority of the voters, self among them, has
// followed a request that was sent at or after since.
func (p *progress) followedSince(since time.Time, self string, servers []raft.Server) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	voters, followed := 0, 0
	for _, srv := range servers {
		if srv.Suffrage != raft.Voter {
			continue
		}
		voters++
		if string(srv.ID) == self || !p.peers[srv.ID].Followed.Before(since) {
			followed++
		}
	}
	return followed > voters/2
}

// AppendEntries implements raft.Transport.
func (t *watchedTransport) AppendEntries(id raft.ServerID, target raft.ServerAddress, args *raft.AppendEntriesRequest, resp *raft.AppendEntriesResponse) error {
	sent := time.Now()
	args.LeaderCommitIndex = t.written(min(args.LeaderCommitIndex, reach(args)))
	err := t.NetworkTransport.AppendEntries(id, target, args, resp)
	if err == nil {
		t.progress.answered(id, sent, args, resp)
	}
	return err
}

// InstallSnapshot implements raft.Transport.
func (t *watchedTransport) InstallSnapshot(id raft.ServerID, target raft.ServerAddress, args *raft.InstallSnapshotRequest, resp *raft.InstallSnapshotResponse, data io.Reader) error {
	err := t.NetworkTransport.InstallSnapshot(id, target, args, resp, data)
	if err == nil && resp.Success && resp.Term <= args.Term {
		t.progress.confirm(id, args.Term, args.LastLogIndex, args.LastLogTerm)
		t.progress.witness.confirmed(id, resp.Term, args.LastLogIndex)
	}
	return err
}

// AppendEntriesPipeline implements raft.Transport.
func (t *watchedTransport) AppendEntriesPipeline(id raft.ServerID, target raft.ServerAddress) (raft.AppendPipeline, error) {
	inner, err := t.NetworkTransport.AppendEntriesPipeline(id, target)
	if err != nil {
		return nil, err
	}
	p := &watchedPipeline{AppendPipeline: inner, id: id, progress: t.progress, written: t.written,
		ready: make(chan raft.AppendFuture, 1), stop: make(chan struct{}), ended: make(chan struct{})}
	go p.pass()
	return p, nil
}

// watchedPipeline hands answers on in their order, and never lets raft wait with
// a message for one that it does not take. Raft stops taking them at the first
// that is a refusal or an error, and may send some more before it looks; each
// waits for a place that only an answer taken sets free, and nothing would ever
// end that: the peer got no entry any more, and the store never closed.
type watchedPipeline struct {
	raft.AppendPipeline
	id       raft.ServerID
	progress *progress
	written  func(uint64) uint64
	ready    chan raft.AppendFuture // capacity 1; never closed, as raft expects
	stop     chan struct{}          // closed by Close
	ended    chan struct{}          // closed by pass
	closing  sync.Once
}

func (p *watchedPipeline) pass() {
	defer close(p.ended)
	var waiting []raft.AppendFuture // as many as raft sends before it looks
	for {
		var ready chan raft.AppendFuture
		var first raft.AppendFuture
		if len(waiting) > 0 {
			ready, first = p.ready, waiting[0]
		}
		select {
		case f := <-p.AppendPipeline.Consumer():
			if f.Error() == nil {
				p.progress.answered(p.id, f.Start(), f.Request(), f.Response())
			}
			waiting = append(waiting, f)
		case ready <- first:
			waiting = waiting[1:]
		case <-p.stop:
			return
		}
	}
}

// AppendEntries implements raft.AppendPipeline.
func (p *watchedPipeline) AppendEntries(args *raft.AppendEntriesRequest, resp *raft.AppendEntriesResponse) (raft.AppendFuture, error) {
	args.LeaderCommitIndex = p.written(min(args.LeaderCommitIndex, reach(args)))
	return p.AppendPipeline.AppendEntries(args, resp)
}

// Consumer implements raft.AppendPipeline.
func (p *watchedPipeline) Consumer() <-chan raft.AppendFuture { return p.ready }

// Close implements raft.AppendPipeline. It waits for the answers' goroutine. The
// last answer is a refusal: raft's own goroutine that takes them waits for one,
// or to be told by the one that sends, which a failure of the log may have ended.
func (p *watchedPipeline) Close() error {
	var err error
	p.closing.Do(func() {
		close(p.stop)
		err = p.AppendPipeline.Close()
		<-p.ended
		select {
		case <-p.ready: // nobody took it
		default:
		}
		p.ready <- noAnswer{}
	})
	return err
}

// noAnswer is an answer that confirms nothing.
type noAnswer struct{}

func (noAnswer) Error() error                          { return raft.ErrPipelineShutdown }
func (noAnswer) Start() time.Time                      { return time.Now() }
func (noAnswer) Request() *raft.AppendEntriesRequest   { return new(raft.AppendEntriesRequest) }
func (noAnswer) Response() *raft.AppendEntriesResponse { return new(raft.AppendEntriesResponse) }
