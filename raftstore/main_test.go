package raftstore_test

import (
	"os"
	"testing"

	"go.uber.org/goleak"
)

// TestMain fails the package where a store leaves a goroutine behind, other
// than one that raft owes an answer (see Store.await), and those that handle a
// peer's last message.
func TestMain(m *testing.M) {
	if dir := os.Getenv(crashDirEnv); dir != "" {
		os.Exit(crashChild(dir)) // this process is there to be killed
	}
	goleak.VerifyTestMain(m, goleak.IgnoreAnyFunction("github.com/redoubt-cluster/redoubt/raftstore.(*Store).await.func1"),
		goleak.IgnoreAnyFunction("github.com/hashicorp/raft.(*NetworkTransport).handleConn"))
}
