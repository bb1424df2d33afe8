package node

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/redoubt-cluster/redoubt/scheduler/taskpb"
	"github.com/redoubt-cluster/redoubt/threatmodel/control"
)

// TestAnswers: what is judged slowly, or by a daemon that is away, hides nothing that
// another one says.
func TestAnswers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const mine, theirs = "roots-kept", "containers-confined"
		own := func(_ context.Context, ids []string) (out []control.Result) {
			for _, c := range control.All() {
				if len(ids) == 1 && c.ID == ids[0] {
					out = append(out, control.Result{Control: c, Outcome: control.Fail, Evidence: []string{"seen"}})
				}
			}
			return out
		}
		well := func(_ context.Context, ids []string) (out []*taskpb.CheckResult, _ error) {
			for _, id := range ids {
				out = append(out, &taskpb.CheckResult{Control: id, Outcome: "pass", Evidence: []string{"1 looked at"}})
			}
			return out, nil
		}
		slow := func(ctx context.Context, ids []string) []control.Result {
			<-ctx.Done()
			return own(ctx, ids)
		}
		hangs := func(ctx context.Context, _ []string) ([]*taskpb.CheckResult, error) {
			<-ctx.Done()
			return nil, errors.New("rund: context deadline exceeded")
		}
		for name, c := range map[string]struct {
			own  func(context.Context, []string) []control.Result
			rund func(context.Context, []string) ([]*taskpb.CheckResult, error)
			want string // of theirs
		}{
			"both":          {own, well, "pass"},
			"a slow netd":   {slow, well, "pass"},
			"a slow rund":   {own, hangs, "error"},
			"two slow ones": {slow, hangs, "error"},
		} {
			ctx, cancel := context.WithTimeout(t.Context(), time.Second)
			begun := time.Now()
			said := map[string]string{}
			for _, r := range answers(ctx, []string{mine, theirs}, c.own, c.rund) {
				said[r.GetControl()] = r.GetOutcome()
			}
			cancel()
			if len(said) != 2 || said[mine] != "fail" || said[theirs] != c.want || time.Since(begun) > time.Second {
				t.Errorf("%s: %v after %s", name, said, time.Since(begun))
			}
		}
	})
}
