package raftstore_test

import (
	"testing"

	"go.uber.org/goleak"
)

// TestMain fails the package where a store leaves a goroutine behind, other
// than one that raft owes an answer: see Store.await.
func TestMain(m *testing.M) {
	goleak.VerifyTestMain(m, goleak.IgnoreAnyFunction("github.com/redoubt-cluster/redoubt/raftstore.(*Store).await.func1"))
}
