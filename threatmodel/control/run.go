package control

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/redoubt-cluster/redoubt/internal/oneline"
)

// Run checks a node by the controls of nodes among those given, some at a time, and
// gives their results in order. A check that does not end within its bound is an
// error; what it goes on doing is nobody's business any more, and it is given up. Where
// nobody gives what a daemon alone knows, the controls that are that one's are left out.
func Run(ctx context.Context, controls []Control, n *Node) []Result {
	return run(ctx, some(controls, n.judges), maxTime, func(ctx context.Context, c Control, found *Found) error {
		if c.Scope == OfManager {
			manager, err := n.Manager()
			if err != nil {
				return err
			}
			if !manager {
				return notApplicable("this node is no manager")
			}
		}
		if c.Scope == OfLocked && !n.Lock().On {
			return notApplicable("this node has no deployment lock")
		}
		return c.Check(ctx, n, found)
	})
}

// judges reports whether what a control of nodes looks at is there to be seen.
func (n *Node) judges(c Control) bool {
	switch c.By {
	case ByRund:
		return c.Check != nil && n.Containers != nil
	case ByControl:
		return c.Check != nil && n.Own != nil
	}
	return c.Check != nil
}

// RunCluster is Run for the controls of the cluster and its services.
func RunCluster(ctx context.Context, controls []Control, cluster *Cluster) []Result {
	return run(ctx, some(controls, Control.OfCluster), maxTime, func(ctx context.Context, c Control, found *Found) error {
		return c.Judge(ctx, cluster, found)
	})
}

// OfCluster reports whether the cluster's leader answers for it.
func (c Control) OfCluster() bool { return c.Judge != nil }

func some(controls []Control, which func(Control) bool) (out []Control) {
	for _, c := range controls {
		if which(c) {
			out = append(out, c)
		}
	}
	return out
}

// check is what a control does with what it judges.
type check func(ctx context.Context, c Control, found *Found) error

func run(ctx context.Context, controls []Control, bound time.Duration, do check) []Result {
	results := make([]Result, len(controls))
	places := make(chan struct{}, maxParallel)
	var wait sync.WaitGroup
	for i, c := range controls {
		wait.Go(func() {
			places <- struct{}{}
			defer func() { <-places }()
			results[i] = one(ctx, c, bound, do)
		})
	}
	wait.Wait()
	return results
}

// one is the result of one control.
func one(ctx context.Context, c Control, bound time.Duration, do check) Result {
	begun := time.Now()
	if until, ok := ctx.Deadline(); ok { // who asks may have less time
		bound = max(0, min(bound, until.Sub(begun).Round(time.Second/10)))
	}
	ctx, cancel := context.WithTimeout(ctx, bound)
	defer cancel()
	done := make(chan Result, 1)
	go func() {
		done <- judge(ctx, c, do)
	}()
	var r Result
	select {
	case r = <-done:
	case <-ctx.Done():
		r = Result{Outcome: Error, Evidence: []string{fmt.Sprintf("gave no answer within %s", bound)}}
		if errors.Is(ctx.Err(), context.Canceled) {
			r.Evidence = []string{"was given up"}
		}
	}
	r.Control, r.Took = c, time.Since(begun)
	return r
}

func judge(ctx context.Context, c Control, do check) (r Result) {
	defer func() {
		if p := recover(); p != nil {
			r = Result{Outcome: Error, Evidence: []string{oneline.Text(fmt.Sprintf("the check panicked: %v", p), maxLine)}}
		}
	}()
	found := &Found{}
	if err := do(ctx, c, found); err != nil {
		return failed(err)
	}
	if found.more > 0 {
		found.against = append(found.against, fmt.Sprintf("and %d more", found.more))
	}
	switch {
	case len(found.against) > 0:
		return Result{Outcome: Fail, Evidence: found.against}
	case found.looked == 0:
		return Result{Outcome: Error, Evidence: []string{"there was nothing to look at"}}
	}
	return Result{Outcome: Pass, Evidence: []string{fmt.Sprintf("%d looked at", found.looked)}}
}

func failed(err error) Result {
	outcome := Error
	if errors.As(err, new(notApplicable)) {
		outcome = NotApplicable
	}
	return Result{Outcome: outcome, Evidence: []string{oneline.Text(err.Error(), maxLine)}}
}
