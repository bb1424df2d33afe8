package raftstore

import (
	"bytes"
	"time"

	"github.com/hashicorp/raft"
)

// Receive hands s a message as if peer had sent it, and waits for the answer.
func Receive(s *Store, peer string, cmd any, data []byte) (any, error) {
	answer := make(chan raft.RPCResponse, 1)
	s.trans.receive(peer, raft.RPC{Command: cmd, Reader: bytes.NewReader(data), RespChan: answer})
	select {
	case r := <-answer:
		return r.Response, r.Error
	case <-s.Done():
		return nil, s.Err()
	case <-time.After(30 * time.Second):
		panic("no answer to a message")
	}
}

// Entry reads one entry of the log.
func Entry(s *Store, index uint64) (*raft.Log, error) {
	l := &raft.Log{}
	return l, s.logs.GetLog(index, l)
}
