package control

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/redoubt-cluster/redoubt/internal/oneline"
)

// Run checks a node by all controls, some at a time, and gives their results in
// order. A check that does not end within its bound is an error; what it goes on
// doing is nobody's business any more, and it is given up.
func Run(ctx context.Context, controls []Control, n *Node) []Result {
	return run(ctx, controls, n, maxTime)
}

func run(ctx context.Context, controls []Control, n *Node, bound time.Duration) []Result {
	results := make([]Result, len(controls))
	places := make(chan struct{}, maxParallel)
	var wait sync.WaitGroup
	for i, c := range controls {
		wait.Go(func() {
			places <- struct{}{}
			defer func() { <-places }()
			results[i] = one(ctx, c, n, bound)
		})
	}
	wait.Wait()
	return results
}

// one is the result of one control.
func one(ctx context.Context, c Control, n *Node, bound time.Duration) Result {
	begun := time.Now()
	ctx, cancel := context.WithTimeout(ctx, bound)
	defer cancel()
	done := make(chan Result, 1)
	go func() {
		done <- judge(ctx, c, n)
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

func judge(ctx context.Context, c Control, n *Node) (r Result) {
	defer func() {
		if p := recover(); p != nil {
			r = Result{Outcome: Error, Evidence: []string{oneline.Text(fmt.Sprintf("the check panicked: %v", p), maxLine)}}
		}
	}()
	if c.Scope == OfManager {
		manager, err := n.manager()
		if err != nil {
			return failed(err)
		}
		if !manager {
			return Result{Outcome: NotApplicable}
		}
	}
	found := &Found{}
	if err := c.Check(ctx, n, found); err != nil {
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
	return Result{Outcome: Error, Evidence: []string{oneline.Text(err.Error(), maxLine)}}
}
