package dockerapi

import (
	"strings"
	"time"

	"github.com/redoubt-cluster/redoubt/cmd/internal/control/apierr"
)

// gone removes something, and where tasks have it that are stopping, which is a matter of
// seconds, waits for them: Docker's command removes a stack's services and then what they
// used, and asks once.
func gone(q *request, remove func() error) error {
	tick := time.NewTicker(250 * time.Millisecond)
	defer tick.Stop()
	for {
		err := remove()
		if err == nil || !stopping(err) {
			return err
		}
		select {
		case <-tick.C:
		case <-q.Context().Done():
			return err
		}
	}
}

// stopping reports whether the only thing in the way of a removal is a task that stops.
func stopping(err error) bool {
	e := apierr.Decode(err)
	return (e.Reason == apierr.ReasonState || e.Reason == apierr.ReasonInvalid) && strings.Contains(e.Error(), "stopping: try again when it has")
}
