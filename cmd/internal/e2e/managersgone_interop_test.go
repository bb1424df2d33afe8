//go:build interop

package e2e

import (
	"testing"
	"time"
)

// TestInteropManagersGone is TestManagersGone with three managers, for a minute.
func TestInteropManagersGone(t *testing.T) {
	t.Parallel()
	managersGone(t, 3, time.Minute)
}
