package raftstore_test

import (
	"context"
	"errors"
	"testing"

	"github.com/hashicorp/raft"

	"github.com/redoubt-cluster/redoubt/raftstore"
	"github.com/redoubt-cluster/redoubt/raftstore/internal/testpb"
	"github.com/redoubt-cluster/redoubt/raftstore/raftstoretest"
)

// deafLog is a log that takes nothing, as one of a process that ends before it is asked.
type deafLog struct{ raft.LogStore }

func (deafLog) StoreLog(*raft.Log) error    { return errors.New("the process has ended") }
func (deafLog) StoreLogs([]*raft.Log) error { return errors.New("the process has ended") }

// TestBootstrapCutShort: a process ends after raft wrote its first term down, and before
// the configuration. The next one begins the cluster all the same, once.
func TestBootstrapCutShort(t *testing.T) {
	for _, kind := range []raftstore.LogStore{raftstore.LogBolt, raftstore.LogWAL} {
		t.Run(string(kind), func(t *testing.T) {
			sealer := raftstoretest.NewSealer()
			config := func() raftstore.Config {
				c := soloConfig(t.TempDir(), sealer)
				c.LogStore = kind
				return c
			}
			c := config()
			s, err := raftstore.Open(t.Context(), c.WithDisk(func(l raft.LogStore) raft.LogStore { return deafLog{l} }, func(s raft.StableStore) raft.StableStore { return s }))
			if err != nil {
				t.Fatal(err)
			}
			if err := s.Bootstrap(); err == nil {
				t.Fatal("a cluster began with a log that takes nothing")
			}
			_ = s.Close(context.Background())

			next := config()
			next.Dir = c.Dir
			again := openSolo(t, next)
			if got := again.Servers(); len(got) != 1 || got[0].ID != soloNode || !got[0].Voter {
				t.Fatalf("the cluster is of %v", got)
			}
			raftstoretest.WaitLeader(t, again)
			put(t, again, &testpb.Thing{Id: "first"})
			if err := again.Bootstrap(); err == nil {
				t.Error("a cluster began twice")
			}
		})
	}
}
