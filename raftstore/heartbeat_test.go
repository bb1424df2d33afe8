package raftstore_test

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"net"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/raft"

	"github.com/redoubt-cluster/redoubt/raftstore"
	"github.com/redoubt-cluster/redoubt/raftstore/raftstoretest"
)

// gate holds writes to a disk until it is opened.
type gate struct {
	mu   sync.Mutex
	held chan struct{} // nil: open
}

func (g *gate) shut() (open func()) {
	g.mu.Lock()
	defer g.mu.Unlock()
	held := make(chan struct{})
	g.held = held
	return func() {
		g.mu.Lock()
		g.held = nil
		g.mu.Unlock()
		close(held)
	}
}

// take returns what to wait for. With one, the writes after this one pass.
func (g *gate) take(one bool) <-chan struct{} {
	g.mu.Lock()
	defer g.mu.Unlock()
	held := g.held
	if one {
		g.held = nil
	}
	return held
}

func (g *gate) wait(one bool) {
	if held := g.take(one); held != nil {
		<-held
	}
}

// gatedStable holds raft's own values; what the store keeps of others comes
// from another goroutine, and passes.
type gatedStable struct {
	raft.StableStore
	gate    *gate
	witness []byte // its name on the disk
}

func (s *gatedStable) Set(key, val []byte) error {
	if !bytes.Equal(key, s.witness) {
		s.gate.wait(true)
	}
	return s.StableStore.Set(key, val)
}

type gatedLog struct {
	raft.LogStore
	gate *gate
}

func (l *gatedLog) StoreLogs(logs []*raft.Log) error {
	l.gate.wait(false)
	return l.LogStore.StoreLogs(logs)
}

// follower is one store whose peers, a and c, are the test's to speak for.
type follower struct {
	*raftstore.Store
	t           *testing.T
	net         *simNet
	stable, log gate
	peers       map[string]*raft.NetworkTransport
}

type simDialer struct {
	net.Listener
	dial func(context.Context, string) (net.Conn, error)
}

func (d simDialer) Dial(addr raft.ServerAddress, timeout time.Duration) (net.Conn, error) {
	ctx, cancel := context.WithTimeout(context.Background(), timeout)
	defer cancel()
	return d.dial(ctx, string(addr))
}

// withFollower runs fn in a bubble.
func withFollower(t *testing.T, fn func(f *follower)) {
	inBubble(t, func(t *testing.T) {
		f := &follower{t: t, net: newSimNet(1), peers: map[string]*raft.NetworkTransport{}}
		l, transport := f.net.home("b")
		sealer := raftstoretest.NewSealer()
		c := raftstore.Config{
			Dir: t.TempDir(), NodeID: "b", ClusterID: "sim", Tables: []raftstore.Registered{things}, Sealer: sealer,
			Transport: transport, InitialPeers: []string{"a", "c"}, Logger: slog.New(slog.DiscardHandler),
		}
		var err error
		f.Store, err = raftstore.Open(t.Context(), c.WithDisk(
			func(l raft.LogStore) raft.LogStore { return &gatedLog{l, &f.log} },
			func(s raft.StableStore) raft.StableStore {
				return &gatedStable{s, &f.stable, sealer.Name([]byte("Witness"))}
			}))
		if err != nil {
			t.Fatal(err)
		}
		l.allow(f.PeerAllowed)
		for _, id := range []string{"a", "c"} {
			pl, pt := f.net.home(id)
			f.peers[id] = raft.NewNetworkTransportWithConfig(&raft.NetworkTransportConfig{
				Stream: simDialer{pl, pt.Dial}, Timeout: time.Minute, Logger: hclog.NewNullLogger(), MaxPool: 4})
			pl.allow(func(string) bool { return true })
		}
		fn(f)
		for _, p := range f.peers {
			_ = p.Close()
		}
		ctx, cancel := context.WithCancel(context.Background())
		cancel()
		if err := f.Close(ctx); err != nil {
			t.Error(err)
		}
		f.net.reset("")
	})
}

func simHeader(id string) raft.RPCHeader {
	return raft.RPCHeader{ProtocolVersion: raft.ProtocolVersionMax, ID: []byte(id), Addr: []byte(id + "@" + id + ":1")}
}

// asked is the answer to a message, once it is there.
type asked[T any] struct {
	done chan struct{}
	resp T
	err  error
}

func (a *asked[T]) answered() bool {
	synctest.Wait()
	select {
	case <-a.done:
		return true
	default:
		return false
	}
}

func (f *follower) append(from string, req raft.AppendEntriesRequest) *asked[raft.AppendEntriesResponse] {
	a := &asked[raft.AppendEntriesResponse]{done: make(chan struct{})}
	req.RPCHeader = simHeader(from)
	go func() {
		defer close(a.done)
		a.err = f.peers[from].AppendEntries("b", "b@b:1", &req, &a.resp)
	}()
	synctest.Wait()
	return a
}

func (f *follower) vote(from string, term uint64) *asked[raft.RequestVoteResponse] {
	a := &asked[raft.RequestVoteResponse]{done: make(chan struct{})}
	go func() {
		defer close(a.done)
		a.err = f.peers[from].RequestVote("b", "b@b:1", &raft.RequestVoteRequest{RPCHeader: simHeader(from), Term: term}, &a.resp)
	}()
	synctest.Wait()
	return a
}

func (f *follower) term() string { return f.Membership().Stats()["term"] }

// TestHeartbeatOfALaterTerm holds the write of the term that a heartbeat brings,
// and asks for a vote in the next one meanwhile. The term must not go back.
func TestHeartbeatOfALaterTerm(t *testing.T) {
	withFollower(t, func(f *follower) {
		open := f.stable.shut()
		beat := f.append("a", raft.AppendEntriesRequest{Term: 10})
		vote := f.vote("c", 11)
		if beat.answered() || vote.answered() {
			t.Error("an answer was given while the term was being written")
		}
		open()
		synctest.Wait()
		if !beat.answered() || beat.err != nil || !beat.resp.Success {
			t.Errorf("the heartbeat: %+v, %v", beat.resp, beat.err)
		}
		if !vote.answered() || vote.err != nil || vote.resp.Granted {
			t.Errorf("a vote past a leader that was just heard: %+v, %v", vote.resp, vote.err)
		}
		if f.term() != "10" || f.Err() != nil {
			t.Errorf("term %s, %v", f.term(), f.Err())
		}
	})
}

// TestHeartbeatWhileVoting has a heartbeat of the present term come while the
// vote in a later one is being written: it must not be confirmed.
func TestHeartbeatWhileVoting(t *testing.T) {
	withFollower(t, func(f *follower) {
		if beat := f.append("a", raft.AppendEntriesRequest{Term: 10}); !beat.answered() || !beat.resp.Success {
			t.Fatalf("the first heartbeat: %+v, %v", beat.resp, beat.err)
		}
		open := f.stable.shut()
		// The leader itself may ask: it was restarted, and does not know that it led.
		vote := f.vote("a", 11)
		beat := f.append("a", raft.AppendEntriesRequest{Term: 10})
		if beat.answered() {
			t.Errorf("a heartbeat of term 10 is answered while the vote in 11 is written: %+v", beat.resp)
		}
		open()
		if !vote.answered() || vote.err != nil || !vote.resp.Granted {
			t.Errorf("the vote: %+v, %v", vote.resp, vote.err)
		}
		if !beat.answered() || beat.err != nil || beat.resp.Success || beat.resp.Term != 11 {
			t.Errorf("a heartbeat of term 10 after the vote in 11: %+v, %v", beat.resp, beat.err)
		}
	})
}

// TestHeartbeatPassesTheDisk holds a write of the log: heartbeats of the leader
// are answered all the same, and nobody else's.
func TestHeartbeatPassesTheDisk(t *testing.T) {
	withFollower(t, func(f *follower) {
		f.append("a", raft.AppendEntriesRequest{Term: 10})
		open := f.log.shut()
		entry := f.append("a", raft.AppendEntriesRequest{Term: 10, Entries: []*raft.Log{{Index: 1, Term: 10, Type: raft.LogNoop}}})
		beat := f.append("a", raft.AppendEntriesRequest{Term: 10})
		other := f.append("c", raft.AppendEntriesRequest{Term: 10})
		later := f.append("c", raft.AppendEntriesRequest{Term: 11})
		if entry.answered() || other.answered() || later.answered() {
			t.Error("an answer came while the disk was busy")
		}
		if !beat.answered() || beat.err != nil || !beat.resp.Success {
			t.Errorf("the leader's heartbeat waits for the disk: %+v, %v", beat.resp, beat.err)
		}
		open()
		if !entry.answered() || !entry.resp.Success || !later.answered() || !later.resp.Success {
			t.Errorf("after the write: %+v, %+v", entry.resp, later.resp)
		}
	})
}

// TestHeartbeatsKeepAFollower lets the leader send nothing but heartbeats for
// long: raft must know of them.
func TestHeartbeatsKeepAFollower(t *testing.T) {
	withFollower(t, func(f *follower) {
		for range 100 {
			if beat := f.append("a", raft.AppendEntriesRequest{Term: 10}); !beat.answered() || !beat.resp.Success {
				t.Fatalf("%+v, %v", beat.resp, beat.err)
			}
			time.Sleep(100 * time.Millisecond) // simulated time
		}
		if id, _ := f.Leader(); id != "a" {
			t.Errorf("after ten seconds of heartbeats the leader is %q", id)
		}
		time.Sleep(5 * time.Second) // simulated time
		if id, _ := f.Leader(); id != "" {
			t.Errorf("after five seconds of silence the leader is %q", id)
		}
	})
}

// TestTermNeverGoesDown writes a lower term, and a vote of a lower term, as a
// defect of raft would: the store stops.
func TestTermNeverGoesDown(t *testing.T) {
	for _, key := range []string{"CurrentTerm", "LastVoteTerm"} {
		dir, sealer := t.TempDir(), raftstoretest.NewSealer()
		if err := raftstore.LowerTerm(t.Context(), soloConfig(dir, sealer), key, 7, 6); err == nil || !strings.Contains(err.Error(), "would go down from 7 to 6") {
			t.Errorf("%s: %v", key, err)
		}
		if err := raftstore.LowerTerm(t.Context(), soloConfig(dir, sealer), key, 7, 8); err != nil && !errors.Is(err, raftstore.ErrClosed) {
			t.Errorf("%s: %v", key, err)
		}
	}
}
