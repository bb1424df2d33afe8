package e2e

import (
	"os"
	"syscall"
	"testing"

	"github.com/redoubt-cluster/redoubt/autolock"
)

// newKey is a well-formed operator key that opens nothing.
func newKey(t *testing.T) string {
	t.Helper()
	k := autolock.NewOperatorKey()
	return k.String()
}

func ownerOf(path string) (uint32, error) {
	fi, err := os.Stat(path)
	if err != nil {
		return 0, err
	}
	return fi.Sys().(*syscall.Stat_t).Uid, nil
}
