package raftstore_test

import (
	"testing"

	"go.uber.org/goleak"
)

// TestMain fails the package where a store leaves a goroutine behind.
func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }
