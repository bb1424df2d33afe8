package control

import (
	"cmp"
	"context"
	"slices"
	"sync"
	"time"

	"github.com/redoubt-cluster/redoubt/internal/oneline"
	"github.com/redoubt-cluster/redoubt/scheduler/taskpb"
	checks "github.com/redoubt-cluster/redoubt/threatmodel/control"
)

// NodeChecks has nodes judge themselves.
type NodeChecks interface {
	// Check gives a node's own word, bounded: of controls that were asked for, each at
	// most once.
	Check(ctx context.Context, node string, controls []string) ([]*taskpb.CheckResult, error)
}

// judgeNodes has every node judge itself by the controls that are asked for, some at a
// time, and tells what each says as it comes. A node that is silent is an error of each
// of its controls, and no other waits for it but for its place.
func (s *Server) judgeNodes(ctx context.Context, members []checks.Member, asked []checks.Control, tell func(checks.Member, []checks.Result) error) error {
	var ids []string
	asked = slices.DeleteFunc(slices.Clone(asked), checks.Control.OfCluster)
	for _, c := range asked {
		ids = append(ids, c.ID)
	}
	if len(ids) == 0 {
		return nil
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	var (
		wg     sync.WaitGroup
		mu     sync.Mutex // guards failed, and is held while tell is called
		failed error
	)
	places := make(chan struct{}, maxChecked)
	for _, m := range members {
		select {
		case places <- struct{}{}:
		case <-ctx.Done():
		}
		if ctx.Err() != nil {
			break
		}
		wg.Go(func() {
			defer func() { <-places }()
			results := s.judgeNode(ctx, m, asked, ids)
			mu.Lock()
			defer mu.Unlock()
			if failed == nil {
				if failed = tell(m, results); failed != nil {
					cancel() // nobody listens any more
				}
			}
		})
	}
	wg.Wait()
	return cmp.Or(failed, ctx.Err())
}

func (s *Server) judgeNode(ctx context.Context, m checks.Member, asked []checks.Control, ids []string) []checks.Result {
	begun := time.Now()
	var answer []*taskpb.CheckResult
	why := ""
	switch {
	case s.c.Checks == nil:
		why = "not judged: nobody asks nodes here"
	case m.Locked:
		why = "the node is locked"
	default:
		patient, cancel := context.WithTimeout(ctx, checkPatience)
		defer cancel()
		var err error
		if answer, err = s.c.Checks.Check(patient, m.ID, ids); err != nil {
			why = oneline.Text(err.Error(), maxCheckText)
		}
	}
	said := map[string]*taskpb.CheckResult{}
	for _, r := range answer {
		said[r.GetControl()] = r
	}
	out := make([]checks.Result, len(asked))
	for i, c := range asked {
		r, ok := said[c.ID]
		out[i] = checks.Result{Control: c, Outcome: checks.Outcome(r.GetOutcome()), Evidence: r.GetEvidence(), Took: time.Duration(r.GetTook())}
		switch {
		case why != "":
			out[i].Outcome, out[i].Evidence, out[i].Took = checks.Error, []string{why}, time.Since(begun)
		case !ok:
			out[i].Outcome, out[i].Evidence = checks.Error, []string{"the node does not answer for this control: upgrade it"}
		default:
			contradict(&out[i], m)
		}
	}
	return out
}

// contradict holds what a node says of itself against what is on record.
func contradict(r *checks.Result, m checks.Member) {
	against := ""
	switch {
	case r.Outcome == checks.NotApplicable && (r.Control.Scope == checks.OfNode || r.Control.Scope == checks.OfManager && m.Manager || r.Control.Scope == checks.OfLocked && m.Lock != ""):
		against = "the node says that this is not applicable, and on record it is"
	case r.Outcome == checks.Pass && r.Control.Scope == checks.OfManager && !m.Manager:
		against = "the node says that it keeps a manager's keys, and on record it is none"
	}
	if against != "" {
		r.Outcome, r.Evidence = checks.Error, append([]string{against}, r.Evidence...)
	}
}
