package raftstore

import "github.com/hashicorp/raft"

// WithDisk lets a test stand between the store and its log and stable files.
func (c Config) WithDisk(log func(raft.LogStore) raft.LogStore, stable func(raft.StableStore) raft.StableStore) Config {
	c.Storage = func(open func() (*Storage, error)) (*Storage, error) {
		s, err := open()
		if err == nil {
			s.Log, s.Stable = log(s.Log), stable(s.Stable)
		}
		return s, err
	}
	return c
}
