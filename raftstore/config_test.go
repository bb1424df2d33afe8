package raftstore_test

import (
	"context"
	"testing"
	"time"

	"github.com/redoubt-cluster/redoubt/raftstore"
	"github.com/redoubt-cluster/redoubt/raftstore/raftstoretest"
)

func TestOpenRefusesIncompleteConfigs(t *testing.T) {
	for name, spoil := range map[string]func(*raftstore.Config){
		"no directory":    func(c *raftstore.Config) { c.Dir = "" },
		"no node":         func(c *raftstore.Config) { c.NodeID = "" },
		"no cluster":      func(c *raftstore.Config) { c.ClusterID = "" },
		"no sealer":       func(c *raftstore.Config) { c.Sealer = nil },
		"no listener":     func(c *raftstore.Config) { c.Transport.Listener = nil },
		"no dial":         func(c *raftstore.Config) { c.Transport.Dial = nil },
		"no logger":       func(c *raftstore.Config) { c.Logger = nil },
		"no address":      func(c *raftstore.Config) { c.Transport.Advertise = "" },
		"foreign address": func(c *raftstore.Config) { c.Transport.Advertise = "other@host:1" },
		"no tables":       func(c *raftstore.Config) { c.Tables = nil },
		"tiny timeout":    func(c *raftstore.Config) { c.ElectionTimeout = time.Millisecond },
	} {
		c := soloConfig(t.TempDir(), raftstoretest.NewSealer())
		spoil(&c)
		if s, err := raftstore.Open(t.Context(), c); err == nil {
			_ = s.Close(context.Background())
			t.Errorf("%s: it opens", name)
		}
	}
}
