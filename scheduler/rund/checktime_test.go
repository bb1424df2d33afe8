package rund

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

	"github.com/redoubt-cluster/redoubt/scheduler/rund/rundpb"
	"github.com/redoubt-cluster/redoubt/scheduler/taskpb"
)

// TestSlowCheck: who asks by controls hears what was judged before they go, though one
// of them takes for ever.
func TestSlowCheck(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &Server{checking: make(chan struct{}, 1), check: func(ctx context.Context, ids []string, _ Inventory) []*taskpb.CheckResult {
			<-ctx.Done() // as control.Run: what is not judged by then is an error
			return []*taskpb.CheckResult{{Control: ids[0], Outcome: "error"}, {Control: ids[1], Outcome: "fail"}}
		}}
		ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second)
		defer cancel()
		r, err := s.Check(ctx, &rundpb.CheckRequest{Controls: []string{"slow", "quick"}})
		if err != nil || len(r.GetResults()) != 2 || ctx.Err() != nil {
			t.Errorf("%v, %v, and who asked: %v", r, err, ctx.Err())
		}
	})
}
