package agent

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"testing"
	"testing/synctest"

	"google.golang.org/protobuf/proto"

	"github.com/redoubt-cluster/redoubt/scheduler/schedulerpb"
	"github.com/redoubt-cluster/redoubt/scheduler/taskpb"
)

// TestCheck: a question about the node is answered once, within the bounds, beside
// what the session does; one too many is not, and one that hangs is given up.
func TestCheck(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		begin := func(check func(context.Context, []string) ([]*taskpb.CheckResult, error)) *session {
			return &session{agent: &agent{Config: Config{Check: check, Logger: slog.New(slog.DiscardHandler)}},
				answers: make(chan *schedulerpb.AgentMessage, maxAnswers), checking: make(chan struct{}, maxChecking)}
		}
		ask := func(s *session) *schedulerpb.CheckAnswer {
			s.check(t.Context(), &schedulerpb.CheckQuestion{Id: "q", Controls: []string{"a", "b"}})
			s.checks.Wait()
			return (<-s.answers).GetCheck()
		}
		if a := ask(begin(nil)); a.GetId() != "q" || a.GetError() == "" {
			t.Errorf("without controls: %v", a)
		}
		if a := ask(begin(func(context.Context, []string) ([]*taskpb.CheckResult, error) {
			return nil, errors.New("rund is\naway")
		})); a.GetError() != "rund is away" {
			t.Errorf("without rund: %v", a)
		}
		a := ask(begin(func(_ context.Context, ids []string) (out []*taskpb.CheckResult, _ error) {
			for _, id := range ids {
				r := &taskpb.CheckResult{Control: id, Outcome: "fail"}
				for range 1000 {
					r.Evidence = append(r.Evidence, strings.Repeat("x", 200))
				}
				out = append(out, r)
			}
			return out, nil
		}))
		if len(a.GetResults()) != 2 || proto.Size(a) > maxCheckAnswer {
			t.Errorf("%d results of %d bytes", len(a.GetResults()), proto.Size(a))
		}
		for _, r := range a.GetResults() {
			if last := r.GetEvidence()[len(r.GetEvidence())-1]; !strings.HasPrefix(last, "and more") {
				t.Errorf("what was cut is not said: %q", last)
			}
		}

		s := begin(func(ctx context.Context, _ []string) ([]*taskpb.CheckResult, error) {
			<-ctx.Done()
			return nil, fmt.Errorf("given up: %w", ctx.Err())
		})
		for range maxChecking + 3 {
			s.check(t.Context(), &schedulerpb.CheckQuestion{Id: "q"})
		}
		s.checks.Wait()
		if len(s.answers) != maxChecking {
			t.Errorf("%d answers", len(s.answers))
		}
	})
}
