package raftstore_test

import (
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/raft"

	"github.com/redoubt-cluster/redoubt/raftstore"
	"github.com/redoubt-cluster/redoubt/raftstore/internal/testpb"
	"github.com/redoubt-cluster/redoubt/raftstore/raftstoretest"
)

// liar is a manager of the identity id that says whatever it is told to.
type liar struct {
	net.Listener
	id string
}

func (l liar) Dial(addr raft.ServerAddress, _ time.Duration) (net.Conn, error) {
	_, hostport, err := raftstore.SplitAddr(string(addr))
	if err != nil {
		return nil, err
	}
	c, err := net.Dial("tcp", hostport)
	if err != nil {
		return nil, err
	}
	_, err = fmt.Fprintln(c, l.id)
	return c, err
}

func newLiar(t testing.TB, id string) *raft.NetworkTransport {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	tr := raft.NewNetworkTransportWithConfig(&raft.NetworkTransportConfig{Stream: liar{l, id}, Timeout: patience, Logger: hclog.NewNullLogger()})
	t.Cleanup(func() { _ = tr.Close() })
	return tr
}

// TestPeerSpeaksForItselfOnly has a member of the cluster send what is another's
// to say.
func TestPeerSpeaksForItselfOnly(t *testing.T) {
	all := newCluster(t)
	a, b, c := all[0], all[1], all[2]
	put(t, a.Store, &testpb.Thing{Id: "before"})
	waitFor(t, b, "before")
	target := raft.ServerAddress(raftstore.JoinAddr("b", b.hostport()))
	head := func(id, addrID string) raft.RPCHeader {
		return raft.RPCHeader{ProtocolVersion: raft.ProtocolVersionMax, ID: []byte(id), Addr: []byte(raftstore.JoinAddr(addrID, c.hostport()))}
	}
	const far = 1000 // a term that everybody would bow to
	for name, send := range map[string]func(*raft.NetworkTransport) error{
		"entries in the leader's name": func(tr *raft.NetworkTransport) error {
			return tr.AppendEntries("b", target, &raft.AppendEntriesRequest{RPCHeader: head("a", "a"), Term: far}, &raft.AppendEntriesResponse{})
		},
		"entries with the leader's address": func(tr *raft.NetworkTransport) error {
			return tr.AppendEntries("b", target, &raft.AppendEntriesRequest{RPCHeader: head("c", "a"), Term: far}, &raft.AppendEntriesResponse{})
		},
		"entries in nobody's name": func(tr *raft.NetworkTransport) error {
			return tr.AppendEntries("b", target, &raft.AppendEntriesRequest{Term: far, PrevLogEntry: 1,
				RPCHeader: raft.RPCHeader{ProtocolVersion: raft.ProtocolVersionMax}}, &raft.AppendEntriesResponse{})
		},
		"a vote for another": func(tr *raft.NetworkTransport) error {
			return tr.RequestVote("b", target, &raft.RequestVoteRequest{RPCHeader: head("a", "a"), Term: far, LeadershipTransfer: true}, &raft.RequestVoteResponse{})
		},
		"a vote for an address of another": func(tr *raft.NetworkTransport) error {
			return tr.RequestPreVote("b", target, &raft.RequestPreVoteRequest{RPCHeader: head("c", "a"), Term: far}, &raft.RequestPreVoteResponse{})
		},
		"a snapshot in the leader's name": func(tr *raft.NetworkTransport) error {
			return tr.InstallSnapshot("b", target, &raft.InstallSnapshotRequest{RPCHeader: head("a", "a"), Term: far, Size: 4},
				&raft.InstallSnapshotResponse{}, strings.NewReader("evil"))
		},
		"an order to stand, in the leader's name": func(tr *raft.NetworkTransport) error {
			return tr.TimeoutNow("b", target, &raft.TimeoutNowRequest{RPCHeader: head("a", "a")}, &raft.TimeoutNowResponse{})
		},
		"an order to stand, not leading": func(tr *raft.NetworkTransport) error {
			return tr.TimeoutNow("b", target, &raft.TimeoutNowRequest{RPCHeader: head("c", "c")}, &raft.TimeoutNowResponse{})
		},
	} {
		if err := send(newLiar(t, "c")); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
	put(t, a.Store, &testpb.Thing{Id: "after"})
	waitFor(t, b, "after")
	if id, _ := b.Leader(); id != "a" || !a.IsLeader() {
		t.Errorf("the leader is %q", id)
	}
	// The leader itself may order it.
	if err := a.TransferLeadership(waitContext(t)); err != nil {
		t.Fatal(err)
	}
	leaderOf(t, b, c)
}

// TestNonvoterTakesNoLeadership: the privilege of a handover is for voters.
func TestNonvoterTakesNoLeadership(t *testing.T) {
	all := newCluster(t)
	a, b := all[0], all[1]
	d := newMember(t, "d", "a")
	if err := a.AddNonvoter(waitContext(t), d.id, d.hostport()); err != nil {
		t.Fatal(err)
	}
	put(t, a.Store, &testpb.Thing{Id: "x"})
	waitFor(t, b, "x")
	resp := &raft.RequestVoteResponse{}
	err := newLiar(t, "d").RequestVote("b", raft.ServerAddress(raftstore.JoinAddr("b", b.hostport())), &raft.RequestVoteRequest{
		RPCHeader: raft.RPCHeader{ProtocolVersion: raft.ProtocolVersionMax, ID: []byte("d"), Addr: []byte(raftstore.JoinAddr("d", d.hostport()))},
		Term:      1000, LastLogIndex: 1 << 40, LastLogTerm: 1000, LeadershipTransfer: true,
	}, resp)
	if err != nil || resp.Granted || resp.Term >= 1000 {
		t.Fatalf("%v, %+v", err, resp)
	}
	put(t, a.Store, &testpb.Thing{Id: "y"}) // a leads as before
}

// TestPeerIsCutOff: a peer's connections end when it is dropped, and when it
// leaves the configuration.
func TestPeerIsCutOff(t *testing.T) {
	all := newCluster(t)
	a, b := all[0], all[1]
	connect := func(to *member) net.Conn {
		t.Helper()
		c, err := liar{id: "c"}.Dial(raft.ServerAddress(raftstore.JoinAddr(to.id, to.hostport())), 0)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = c.Close() })
		// A question that is answered proves that the connection is in use.
		ask(t, c)
		return c
	}
	ended := func(c net.Conn) {
		t.Helper()
		_ = c.SetReadDeadline(time.Now().Add(patience))
		if _, err := io.Copy(io.Discard, c); err != nil && !strings.Contains(err.Error(), "reset") {
			t.Errorf("the connection is still open: %v", err)
		}
	}
	c := connect(a)
	a.DropPeer("c")
	ended(c)
	onLeader, onFollower := connect(a), connect(b)
	if err := a.RemoveServer(waitContext(t), "c"); err != nil {
		t.Fatal(err)
	}
	ended(onLeader)
	ended(onFollower)
}

// ask sends an old vote request and waits for the first byte of the answer.
func ask(t testing.TB, c net.Conn) {
	t.Helper()
	pre := &oneConn{c: c}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	pre.Listener = l
	tr := raft.NewNetworkTransportWithConfig(&raft.NetworkTransportConfig{Stream: pre, MaxPool: 1, Timeout: patience, Logger: hclog.NewNullLogger()})
	defer tr.Close()
	if err := tr.RequestPreVote("x", "x", &raft.RequestPreVoteRequest{RPCHeader: raft.RPCHeader{ProtocolVersion: raft.ProtocolVersionMax,
		ID: []byte("c"), Addr: []byte("c@x:1")}}, &raft.RequestPreVoteResponse{}); err != nil {
		t.Fatal(err)
	}
}

type oneConn struct {
	net.Listener
	c net.Conn
}

func (o *oneConn) Dial(raft.ServerAddress, time.Duration) (net.Conn, error) { return o.c, nil }

// TestConnectionEndsWithItsCertificate: what was accepted does not outlive it.
func TestConnectionEndsWithItsCertificate(t *testing.T) {
	l := newLink(t, "a")
	l.until = 300 * time.Millisecond
	m := openMemberOn(t, l, t.TempDir(), raftstoretest.NewSealer())
	if err := m.Bootstrap(); err != nil {
		t.Fatal(err)
	}
	c, err := liar{id: "a"}.Dial(raft.ServerAddress(raftstore.JoinAddr("a", m.hostport())), 0)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	_ = c.SetReadDeadline(time.Now().Add(patience))
	if _, err := c.Read(make([]byte, 1)); !errors.Is(err, io.EOF) {
		t.Errorf("got %v", err)
	}
}
