package dispatcher

import (
	"context"
	"errors"
	"slices"

	"google.golang.org/protobuf/proto"

	"github.com/redoubt-cluster/redoubt/internal/oneline"
	"github.com/redoubt-cluster/redoubt/scheduler/schedulerpb"
	"github.com/redoubt-cluster/redoubt/scheduler/taskpb"
)

// errNoChecks is that of a node which does not know the question.
var errNoChecks = errors.New("the node's version does not answer for itself: upgrade it, or see that its rund runs")

// Outcomes that a node may say.
var outcomes = []string{"pass", "fail", "error", "not-applicable"}

// Check has a node judge itself by controls. What it answers is its own word, within
// bounds: each control that was asked for at most once, with an outcome that there is.
func (d *Dispatcher) Check(ctx context.Context, node string, controls []string) ([]*taskpb.CheckResult, error) {
	a, err := ask[*schedulerpb.CheckAnswer](ctx, d, node, "check", checkPatience, errNoChecks, func(id string) *schedulerpb.ManagerMessage {
		return &schedulerpb.ManagerMessage{Message: &schedulerpb.ManagerMessage_Check{Check: &schedulerpb.CheckQuestion{Id: id, Controls: controls}}}
	})
	switch {
	case err != nil:
		return nil, err
	case a.GetError() != "":
		return nil, errors.New(a.GetError())
	}
	for _, r := range a.GetResults() {
		if !slices.Contains(controls, r.GetControl()) {
			return nil, errors.New("the node answers what it was not asked")
		}
	}
	return a.GetResults(), nil
}

// answeredCheck takes a node's answer.
func (s *session) answeredCheck(a *schedulerpb.CheckAnswer) {
	s.answered(a.GetId(), cleanCheck(a))
}

// cleanCheck is an answer that is within the bounds; of one that is not, all that it
// says is left out.
func cleanCheck(a *schedulerpb.CheckAnswer) *schedulerpb.CheckAnswer {
	refused := func(why string) *schedulerpb.CheckAnswer { return &schedulerpb.CheckAnswer{Error: why} }
	if proto.Size(a) > maxCheckAnswer {
		return refused("the node answers more than is taken")
	}
	out := &schedulerpb.CheckAnswer{Error: oneline.Text(a.GetError(), maxMessageText)}
	if out.Error != "" {
		return out
	}
	seen := map[string]bool{}
	for _, r := range a.GetResults() {
		if seen[r.GetControl()] || !slices.Contains(outcomes, r.GetOutcome()) || len(r.GetEvidence()) > maxCheckLines || len(r.ProtoReflect().GetUnknown()) > 0 {
			return refused("the node's answer is malformed")
		}
		seen[r.GetControl()] = true
		clean := &taskpb.CheckResult{Control: r.GetControl(), Outcome: r.GetOutcome(), Took: max(0, r.GetTook())}
		for _, line := range r.GetEvidence() {
			clean.Evidence = append(clean.Evidence, oneline.Text(line, maxCheckLine))
		}
		out.Results = append(out.Results, clean)
	}
	return out
}
