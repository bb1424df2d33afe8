package raftstore

import (
	"bytes"
	"io"
	"net"
	"testing"
	"time"

	"github.com/hashicorp/raft"

	"github.com/redoubt-cluster/redoubt/internal/lp"
)

// A stranger that was let in may lead, in the term that was named or a later
// one, and nothing else, until its time is over.
func TestWhatAStrangerMaySend(t *testing.T) {
	x := newStrangers()
	stranger := func() bool { return false }
	x.admit("d", 7)
	if !x.admitted("d") || x.admitted("e") {
		t.Error("who was named is not who is let in")
	}
	for _, cmd := range []any{&raft.AppendEntriesRequest{Term: 7}, &raft.InstallSnapshotRequest{Term: 8}} {
		if err := x.check("d", cmd, stranger); err != nil {
			t.Errorf("%T: %v", cmd, err)
		}
	}
	for _, cmd := range []any{&raft.AppendEntriesRequest{Term: 6}, &raft.InstallSnapshotRequest{Term: 6}, &raft.RequestVoteRequest{Term: 9},
		&raft.RequestPreVoteRequest{Term: 9}, &raft.TimeoutNowRequest{}} {
		if err := x.check("d", cmd, stranger); err == nil {
			t.Errorf("%T %+v: allowed", cmd, cmd)
		}
		if err := x.check("d", cmd, func() bool { return true }); err != nil {
			t.Errorf("%T of one that is known meanwhile: %v", cmd, err)
		}
	}
	x.named["d"] = vouchedFor{7, time.Now().Add(-time.Second)}
	if x.admitted("d") || x.check("d", &raft.AppendEntriesRequest{Term: 7}, stranger) == nil {
		t.Error("it is let in after its time")
	}
	for i := range 3 * maxVouched {
		x.admit(string(rune('a'+i)), 1)
	}
	if len(x.named) > maxVouched {
		t.Errorf("%d strangers are remembered", len(x.named))
	}
}

func TestQuestionOnAConnection(t *testing.T) {
	answer := lp.Append(u64(3), []byte("leader"))
	ours, theirs := net.Pipe()
	c := &questionedConn{Conn: ours, answer: func() []byte { return answer }}
	got := make(chan []byte, 1)
	go func() {
		_, _ = theirs.Write([]byte{vouchQuestion})
		b := make([]byte, len(answer))
		_, _ = io.ReadFull(theirs, b)
		_ = theirs.Close()
		got <- b
	}()
	if n, err := c.Read(make([]byte, 100)); n != 0 || err != io.EOF {
		t.Errorf("raft sees %d bytes of a question, %v", n, err)
	}
	if b := <-got; !bytes.Equal(b, answer) {
		t.Errorf("answered %q", b)
	}
	// A message of raft passes, and that byte in the midst of it.
	ours, theirs = net.Pipe()
	c = &questionedConn{Conn: ours, answer: func() []byte { return answer }}
	go func() {
		_, _ = theirs.Write([]byte{1, vouchQuestion})
		_, _ = theirs.Write([]byte{vouchQuestion})
		_ = theirs.Close()
	}()
	if b, err := io.ReadAll(c); err != nil || !bytes.Equal(b, []byte{1, vouchQuestion, vouchQuestion}) {
		t.Errorf("raft sees %q, %v", b, err)
	}
}

func FuzzReadVouch(f *testing.F) {
	f.Add(lp.Append(u64(3), []byte("leader")))
	f.Add([]byte{})
	f.Add(bytes.Repeat([]byte{255}, 100))
	f.Fuzz(func(t *testing.T, b []byte) {
		leader, term, err := readVouch(bytes.NewReader(b))
		if err == nil && (len(leader) > maxVouchID || !bytes.HasPrefix(b, lp.Append(u64(term), []byte(leader)))) {
			t.Errorf("%q is read as %q, %d", b, leader, term)
		}
	})
}
