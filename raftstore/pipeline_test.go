package raftstore

import (
	"errors"
	"log/slog"
	"net"
	"sync"
	"testing"
	"time"

	"github.com/hashicorp/raft"
)

// TestPipelineNobodyTakesFrom: raft takes no answer after the first refusal, and
// may send more before it looks. It must come back from each.
func TestPipelineNobodyTakesFrom(t *testing.T) {
	here, there := net.Pipe()
	conf := raft.NetworkTransportConfig{MaxPool: 1, MaxRPCsInFlight: maxRPCsInFlight, Timeout: time.Minute,
		Logger: raftLogger(slog.New(slog.DiscardHandler)),
		Stream: newHandedStream("self", func(raft.ServerAddress, time.Duration) (net.Conn, error) { return here, nil })}
	trans := &watchedTransport{progress: newProgress(newWitness()), dormancy: newDormancy(false), written: func(i uint64) uint64 { return i },
		NetworkTransport: raft.NewNetworkTransportWithConfig(&conf)}
	accepts := newHandedStream("peer", nil)
	conf.Stream = accepts
	peer := raft.NewNetworkTransportWithConfig(&conf)
	accepts.hand(there)
	over := make(chan struct{})
	var refusing sync.WaitGroup
	refusing.Go(func() {
		for {
			select {
			case rpc := <-peer.Consumer():
				rpc.Respond(&raft.AppendEntriesResponse{Term: 1}, nil)
			case <-over:
				return
			}
		}
	})
	defer func() {
		_ = there.Close()
		if err := errors.Join(peer.Close(), trans.Close()); err != nil {
			t.Error(err)
		}
		close(over)
		refusing.Wait()
	}()
	p, err := trans.AppendEntriesPipeline("peer", "peer@host:1")
	if err != nil {
		t.Fatal(err)
	}
	sent := make(chan error, 1)
	go func() {
		for range 10 {
			if _, err := p.AppendEntries(&raft.AppendEntriesRequest{Term: 1}, new(raft.AppendEntriesResponse)); err != nil {
				sent <- err
				return
			}
		}
		sent <- nil
	}()
	select {
	case err := <-sent:
		if err != nil {
			t.Error(err)
		}
	case <-time.After(10 * time.Second):
		t.Error("a message waits for ever for an answer before it that nobody takes")
	}
	for range 3 { // and those who do take them get them
		select {
		case f := <-p.Consumer():
			if f.Error() != nil || f.Response().Success || f.Response().Term != 1 {
				t.Errorf("%v, %+v", f.Error(), f.Response())
			}
		case <-time.After(10 * time.Second):
			t.Fatal("an answer is lost")
		}
	}
	if err := p.Close(); err != nil {
		t.Error(err)
	}
}
