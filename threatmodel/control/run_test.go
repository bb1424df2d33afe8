package control

import (
	"context"
	"errors"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

func TestRun(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var at, most atomic.Int32
		controls := []Control{
			{ID: "passes", Check: func(_ context.Context, _ *Node, f *Found) error { f.Looked(); return nil }},
			{ID: "fails", Check: func(_ context.Context, _ *Node, f *Found) error {
				f.Against("a\nb\x1b[2J%s", strings.Repeat("x", 999))
				return nil
			}},
			{ID: "fails often", Check: func(_ context.Context, _ *Node, f *Found) error {
				for i := range 50 {
					f.Against("%d", i)
				}
				return nil
			}},
			{ID: "looks at nothing", Check: func(context.Context, *Node, *Found) error { return nil }},
			{ID: "errs", Check: func(_ context.Context, _ *Node, f *Found) error { f.Against("x"); return errors.New("no\nway") }},
			{ID: "panics", Check: func(context.Context, *Node, *Found) error { panic("at the disco") }},
			{ID: "is of another", Check: func(context.Context, *Node, *Found) error { return notApplicable("it is none") }},
			{ID: "hangs", Check: func(ctx context.Context, _ *Node, f *Found) error { time.Sleep(time.Hour); f.Looked(); return nil }},
		}
		for range 30 {
			controls = append(controls, Control{ID: "one of many", Check: func(_ context.Context, _ *Node, f *Found) error {
				most.Store(max(most.Load(), at.Add(1)))
				time.Sleep(time.Second)
				at.Add(-1)
				f.Looked()
				return nil
			}})
		}
		begun := time.Now()
		onNode := func(ctx context.Context, c Control, f *Found) error { return c.Check(ctx, &Node{}, f) }
		results := run(t.Context(), controls, 5*time.Second, onNode)
		if took := time.Since(begun); took > 15*time.Second || most.Load() > maxParallel {
			t.Errorf("%s, %d at a time", took, most.Load())
		}
		want := []Outcome{Pass, Fail, Fail, Error, Error, Error, NotApplicable, Error}
		for i, r := range results {
			if i < len(want) && r.Outcome != want[i] || i >= len(want) && r.Outcome != Pass || r.Control.ID != controls[i].ID {
				t.Errorf("%s: %s %q", r.Control.ID, r.Outcome, r.Evidence)
			}
			if len(r.Evidence) == 0 || len(r.Evidence) > maxEvidence+1 || slices.ContainsFunc(r.Evidence, func(l string) bool {
				return len(l) > maxLine || strings.ContainsAny(l, "\n\x1b")
			}) {
				t.Errorf("%s: %q", r.Control.ID, r.Evidence)
			}
		}
		if e := results[2].Evidence; len(e) != maxEvidence+1 || e[maxEvidence] != "and 30 more" || !LeftOff(e[maxEvidence]) || LeftOff(e[0]) {
			t.Errorf("%q", e)
		}
		hurry, leave := context.WithTimeout(t.Context(), 3*time.Second)
		defer leave()
		if e := run(hurry, controls[7:8], 5*time.Second, onNode)[0].Evidence; e[0] != "gave no answer within 3s" {
			t.Errorf("who asked has three seconds: %q", e)
		}
		if OK(results) || !OK(results[:1]) || OK(results[3:4]) {
			t.Error("what could not be judged passes")
		}
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		if r := run(ctx, controls[7:8], time.Second, onNode)[0]; r.Outcome != Error {
			t.Errorf("given up: %s", r.Outcome)
		}
		time.Sleep(2 * time.Hour) // those that hang end
	})
}

func TestControlsAreDescribed(t *testing.T) {
	last := ""
	for _, c := range All() {
		if c.ID <= last || c.Title == "" || c.Severity == "" || c.Scope == "" || c.Reads == "" || c.Remedy == "" || (c.Check == nil) == (c.Judge == nil) || c.OfCluster() != (c.Scope == OfCluster || c.Scope == OfService) {
			t.Errorf("%s after %s: %+v", c.ID, last, c.Title)
		}
		last = c.ID
	}
}
