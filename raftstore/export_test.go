package raftstore

import "github.com/hashicorp/raft"

// WithDisk lets a test stand between the store and its log and stable files.
func (c Config) WithDisk(log func(raft.LogStore) raft.LogStore, stable func(raft.StableStore) raft.StableStore) Config {
	c.wrapLog, c.wrapStable = log, stable
	return c
}
