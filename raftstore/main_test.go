package raftstore_test

import (
	"testing"

	"go.uber.org/goleak"
)

// TestMain fails the package where a store leaves a goroutine behind, other
// than one that raft owes an answer (see Store.await), and those that handle a
// peer's last message.
func TestMain(m *testing.M) {
	goleak.VerifyTestMain(m, goleak.IgnoreAnyFunction("github.com/redoubt-cluster/redoubt/raftstore.(*Store).await.func1"),
		goleak.IgnoreAnyFunction("github.com/hashicorp/raft.(*NetworkTransport).handleConn"))
}
