package agent

import (
	"context"

	"google.golang.org/protobuf/proto"

	"github.com/redoubt-cluster/redoubt/internal/oneline"
	"github.com/redoubt-cluster/redoubt/scheduler/schedulerpb"
	"github.com/redoubt-cluster/redoubt/scheduler/taskpb"
)

// answer tells a manager of this node's end of the tunnels. Where answers wait
// already, which is more questions than a manager asks, this one is left out.
func (s *session) answer(q *schedulerpb.MeshRequest) {
	m := &schedulerpb.MeshAnswer{Id: q.GetId(), Error: "this node is no part of a mesh"}
	if s.Mesh != nil {
		state, err := s.Mesh(q.GetRotateKey())
		if m.State, m.Error = state, ""; err != nil {
			m.State, m.Error = nil, err.Error()
		}
	}
	select {
	case s.answers <- &schedulerpb.AgentMessage{Message: &schedulerpb.AgentMessage_Mesh{Mesh: m}}:
	default:
		s.Logger.Warn("too many questions about the mesh: one is not answered")
	}
}

// check has this node judged by controls, beside what else the session does, and
// answers. Where others are being answered already, it says so.
func (s *session) check(ctx context.Context, q *schedulerpb.CheckQuestion) {
	m := &schedulerpb.CheckAnswer{Id: q.GetId()}
	say := func() {
		select {
		case s.answers <- &schedulerpb.AgentMessage{Message: &schedulerpb.AgentMessage_Check{Check: m}}:
		case <-ctx.Done():
		}
	}
	if s.Check == nil {
		m.Error = "this node has no controls"
		s.checks.Go(say)
		return
	}
	select {
	case s.checking <- struct{}{}:
	default:
		s.Logger.Warn("too many questions about this node: one is not answered")
		return
	}
	s.checks.Go(func() {
		defer func() { <-s.checking }()
		ctx, cancel := context.WithTimeout(ctx, checkPatience)
		defer cancel()
		results, err := s.Check(ctx, q.GetControls())
		if err != nil {
			m.Error = oneline.Text(err.Error(), maxText)
		}
		m.Results = fitting(results)
		say()
	})
}

// fitting are results that fit into an answer: each has its share of it, and lines
// beyond that are counted.
func fitting(results []*taskpb.CheckResult) []*taskpb.CheckResult {
	for _, r := range results {
		size, more := 0, "and more, which is too much to tell"
		for i, line := range r.GetEvidence() {
			if size += len(line) + 8; size > maxCheckAnswer/len(results)-256 {
				r.Evidence = append(r.Evidence[:i:i], more)
				break
			}
		}
	}
	if proto.Size(&schedulerpb.CheckAnswer{Results: results}) > maxCheckAnswer {
		return nil // ids that nobody gave
	}
	return results
}
