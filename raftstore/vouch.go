package raftstore

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"slices"
	"sync"
	"time"

	"github.com/hashicorp/raft"

	"github.com/redoubt-cluster/redoubt/internal/lp"
)

// A server that was away while a new one joined, and became leader, does not
// know that leader: it is not in the configuration that it has, and it could
// learn of it from that leader alone. So when a stranger asks to be let in, and
// no leader is heard, the voters of its own configuration are asked whom they
// follow. Where one names the stranger, the stranger is let in for a while, as a
// leader only: for entries and snapshots, of no lower term than was named.
//
// That gives nobody more than he has: who vouches is a voter of the very
// configuration that this server goes by, and could send it entries himself. A
// server that was removed is named by nobody who knows of it.
//
// The question is one byte, which no message of raft begins with, on a
// connection as raft's own; formats.md has the answer.

const (
	vouchQuestion = 0xF1
	maxVouchID    = 256 // bytes
	maxVouched    = 8   // strangers at a time
	// vouchLife is how long a stranger is let in; within it, it must have become
	// known. vouchWait bounds one round of questions, vouchPause is between two.
	vouchLife  = 30 * time.Second
	vouchWait  = 2 * time.Second
	vouchPause = 500 * time.Millisecond
)

// strangers are the servers that a voter has named as its leader.
type strangers struct {
	knock chan string // capacity 1: one who is not known
	mu    sync.Mutex
	named map[string]vouchedFor // guarded by mu
}

type vouchedFor struct {
	term  uint64
	until time.Time
}

func newStrangers() *strangers {
	return &strangers{knock: make(chan string, 1), named: map[string]vouchedFor{}}
}

// admitted reports whether id may come in now.
func (x *strangers) admitted(id string) bool {
	x.mu.Lock()
	defer x.mu.Unlock()
	n, ok := x.named[id]
	return ok && time.Now().Before(n.until)
}

// admit lets id in for entries of that term and later ones.
func (x *strangers) admit(id string, term uint64) {
	x.mu.Lock()
	defer x.mu.Unlock()
	for other, n := range x.named {
		if other != id && (len(x.named) >= maxVouched || time.Since(n.until) > vouchLife) {
			delete(x.named, other)
		}
	}
	x.named[id] = vouchedFor{term, time.Now().Add(vouchLife)}
}

// forget is told that id is known.
func (x *strangers) forget(id string) {
	x.mu.Lock()
	defer x.mu.Unlock()
	delete(x.named, id)
}

// check says what one who was let in may send; known is whether it is in the
// configuration meanwhile.
func (x *strangers) check(id string, cmd any, known func() bool) error {
	x.mu.Lock()
	n, ok := x.named[id]
	x.mu.Unlock()
	if !ok || known() {
		return nil
	}
	var term uint64
	switch cmd := cmd.(type) {
	case *raft.AppendEntriesRequest:
		term = cmd.Term
	case *raft.InstallSnapshotRequest:
		term = cmd.Term
	default:
		return errors.New("it is not in the configuration, and was let in as a leader alone")
	}
	if term < n.term || time.Now().After(n.until) {
		return errors.New("it is not in the configuration, and no voter names it as the leader of that term")
	}
	return nil
}

// noteStranger remembers to ask for id.
func (s *Store) noteStranger(id string) {
	select {
	case s.strangers.knock <- id:
	default: // one is being asked for; this one will come again
	}
}

// askForStrangers asks the voters for who knocks.
func (s *Store) askForStrangers() {
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	defer context.AfterFunc(s.layer.ctx, cancel)()
	for {
		select {
		case id := <-s.strangers.knock:
			if leader, _ := s.Leader(); leader == "" && !s.inConfiguration(id) {
				s.askFor(ctx, id)
			}
			if !pause(ctx, vouchPause) {
				return
			}
		case <-s.stopping:
			return
		case <-ctx.Done():
			return
		}
	}
}

// askFor asks every voter at once, and waits for all.
func (s *Store) askFor(ctx context.Context, id string) {
	ctx, cancel := context.WithTimeout(ctx, vouchWait)
	defer cancel()
	var wg sync.WaitGroup
	for _, srv := range s.configuration() {
		if srv.Suffrage != raft.Voter || string(srv.ID) == s.cfg.NodeID {
			continue
		}
		wg.Go(func() {
			leader, term, err := s.askLeader(ctx, string(srv.Address))
			if err != nil || leader != id || term < s.terms.current() {
				return
			}
			s.strangers.admit(id, term)
			s.cfg.Logger.Info("a leader that is new here is let in: a voter follows it", "leader", id, "voter", srv.ID, "term", term)
			cancel() // one is enough
		})
	}
	wg.Wait()
}

// askLeader asks the server at addr whom it follows.
func (s *Store) askLeader(ctx context.Context, addr string) (leader string, term uint64, err error) {
	err = s.question(ctx, addr, func(r io.Reader) error {
		leader, term, err = readVouch(r)
		return err
	})
	return leader, term, err
}

// question asks the server at addr, and has its answer read.
func (s *Store) question(ctx context.Context, addr string, read func(io.Reader) error) error {
	c, err := s.cfg.Transport.Dial(ctx, addr)
	if err != nil {
		return err
	}
	defer c.Close()
	defer context.AfterFunc(ctx, func() { _ = c.Close() })()
	if _, err := c.Write([]byte{vouchQuestion}); err != nil {
		return err
	}
	return read(c)
}

// readVouch reads an answer: a term and an id, `term u64 ‖ lp(id)`.
func readVouch(r io.Reader) (leader string, term uint64, err error) {
	var head [12]byte
	if _, err := io.ReadFull(r, head[:]); err != nil {
		return "", 0, err
	}
	n := binary.BigEndian.Uint32(head[8:])
	if n > maxVouchID {
		return "", 0, fmt.Errorf("an answer with an id of %d bytes", n)
	}
	id := make([]byte, n)
	if _, err := io.ReadFull(r, id); err != nil {
		return "", 0, err
	}
	return string(id), binary.BigEndian.Uint64(head[:]), nil
}

// vouch is the answer to a question: the leader that this server has just heard,
// and the store level that it understands.
func (s *Store) vouch() []byte {
	_, leader := s.raft.LeaderWithID()
	heard := time.Since(s.raft.LastContact()) < s.cfg.ElectionTimeout || s.raft.State() == raft.Leader
	if !heard || !s.inConfiguration(string(leader)) {
		leader = ""
	}
	return binary.BigEndian.AppendUint32(lp.Append(u64(s.terms.current()), []byte(leader)), s.fsm.understood)
}

// questionedConn is an accepted connection, which may turn out to bring a
// question; raft sees the end of it then.
type questionedConn struct {
	net.Conn
	answer func() []byte
	begun  bool // by the one goroutine that reads
}

// Read implements net.Conn.
func (c *questionedConn) Read(p []byte) (int, error) {
	n, err := c.Conn.Read(p)
	if c.begun || n == 0 {
		return n, err
	}
	if c.begun = true; p[0] != vouchQuestion {
		return n, err
	}
	// Who asks closes when it has the answer. If that does not get through it
	// asks again, so errors are of no interest.
	_ = c.SetDeadline(time.Now().Add(vouchWait))
	if _, err := c.Write(c.answer()); err == nil {
		_, _ = c.Conn.Read(p)
	}
	_ = c.Close()
	return 0, io.EOF
}

func (s *Store) inConfiguration(id string) bool {
	return slices.ContainsFunc(s.configuration(), func(srv raft.Server) bool { return string(srv.ID) == id })
}
