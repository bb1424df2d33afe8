package control_test

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/redoubt-cluster/redoubt/cmd/internal/control"
	"github.com/redoubt-cluster/redoubt/cmd/internal/control/controlpb"
	"github.com/redoubt-cluster/redoubt/scheduler/lock"
	"github.com/redoubt-cluster/redoubt/scheduler/schedulerpb"
	"github.com/redoubt-cluster/redoubt/scheduler/taskpb"
	checks "github.com/redoubt-cluster/redoubt/threatmodel/control"
)

// nodesSay is what nodes answer of themselves.
type nodesSay func(ctx context.Context, node string, controls []string) ([]*taskpb.CheckResult, error)

func (f nodesSay) Check(ctx context.Context, node string, controls []string) ([]*taskpb.CheckResult, error) {
	return f(ctx, node, controls)
}

// well is the answer of a node as it should be.
func well(manager bool, controls []string) (out []*taskpb.CheckResult) {
	for _, c := range checks.All() {
		if !slices.Contains(controls, c.ID) {
			continue
		}
		r := &taskpb.CheckResult{Control: c.ID, Outcome: "pass", Evidence: []string{"1 looked at"}, Took: 1e6}
		if c.Scope == checks.OfManager && !manager {
			r.Outcome = "not-applicable"
		}
		out = append(out, r)
	}
	return out
}

// change is an answer with another outcome of one control.
func change(r []*taskpb.CheckResult, id, outcome string) []*taskpb.CheckResult {
	for _, x := range r {
		if x.Control == id {
			x.Outcome = outcome
		}
	}
	return r
}

// TestNodesAnswerForThemselves: each node's own word is told as its own; what it lies
// about against the record, leaves out, or is silent on, is an error of its own, and no
// other's.
func TestNodesAnswerForThemselves(t *testing.T) {
	w := newJudged(t)
	for name, c := range map[string]struct {
		say  nodesSay // of the worker
		want map[string]string
		all  string // of every control of the worker
	}{
		"as it should be": {func(_ context.Context, _ string, ids []string) ([]*taskpb.CheckResult, error) {
			return well(false, ids), nil
		}, nil, ""},
		"what fails": {func(_ context.Context, _ string, ids []string) ([]*taskpb.CheckResult, error) {
			return change(well(false, ids), "files-own", "fail"), nil
		}, map[string]string{"files-own": "fail 1 looked at"}, ""},
		"nothing applies to it": {func(_ context.Context, _ string, ids []string) ([]*taskpb.CheckResult, error) {
			return change(well(false, ids), "files-own", "not-applicable"), nil
		}, map[string]string{"files-own": "error the node says that this is not applicable"}, ""},
		"a manager by its own word": {func(_ context.Context, _ string, ids []string) ([]*taskpb.CheckResult, error) {
			return change(well(false, ids), "autolock-on", "pass"), nil
		}, map[string]string{"autolock-on": "error the node says that it keeps a manager's keys"}, ""},
		"it leaves one out": {func(_ context.Context, _ string, ids []string) ([]*taskpb.CheckResult, error) {
			return slices.DeleteFunc(well(false, ids), func(r *taskpb.CheckResult) bool { return r.Control == "programs-trusted" }), nil
		}, map[string]string{"programs-trusted": "error the node does not answer for this control"}, ""},
		"it is away": {func(context.Context, string, []string) ([]*taskpb.CheckResult, error) {
			return nil, errors.New("the node is\nnot connected")
		}, nil, "error the node is"},
	} {
		w.checked(func(ctx context.Context, node string, ids []string) ([]*taskpb.CheckResult, error) {
			if node == w.manager {
				return well(true, ids), nil
			}
			return c.say(ctx, node, ids)
		})
		of := map[string]int{}
		for _, r := range w.judgedNodes(t) {
			of[r.GetNode()]++
			got, want := r.GetOutcome()+" "+strings.Join(r.GetEvidence(), " "), ""
			if r.GetNode() == w.worker {
				want = c.want[r.GetId()]
				if c.all != "" {
					want = c.all
				}
			}
			if want == "" && r.GetOutcome() != "pass" && r.GetOutcome() != "not-applicable" || !strings.HasPrefix(got, want) || strings.Contains(got, "\n") {
				t.Errorf("%s: %s of %s: %q, want %q", name, r.GetId(), r.GetNodeName(), got, want)
			}
		}
		if of[w.manager] != 22 || of[w.worker] != 22 {
			t.Errorf("%s: %v", name, of)
		}
	}
}

// TestLockByItsRecord: what is asked of nodes under the deployment lock is of no other,
// and of one that says that it has the lock it is.
func TestLockByItsRecord(t *testing.T) {
	w := newJudged(t)
	w.checked(func(_ context.Context, node string, ids []string) ([]*taskpb.CheckResult, error) {
		return change(well(node == w.manager, ids), "containers-signed", "not-applicable"), nil
	})
	w.describe(w.worker, func(d *schedulerpb.NodeDescription) {
		d.Features = []*taskpb.Feature{{Name: lock.Feature, Present: true, Detail: "link 0 ab"}}
	})
	want := map[string]string{w.manager: "not-applicable", w.worker: "error"}
	for _, r := range w.judgedNodes(t) {
		if r.GetId() == "containers-signed" && r.GetOutcome() != want[r.GetNode()] {
			t.Errorf("%s: %s %q, want %s", r.GetNodeName(), r.GetOutcome(), r.GetEvidence(), want[r.GetNode()])
		}
	}
}

// TestManyNodesAnswer: of five hundred nodes, some of which hang, a bounded number is
// asked at a time, none is waited for beyond its bound, and what they said is not kept.
func TestManyNodesAnswer(t *testing.T) {
	const nodes, hang = 500, 64
	members := make([]checks.Member, nodes)
	for i := range members {
		members[i] = checks.Member{ID: fmt.Sprint("id-", i), Name: fmt.Sprint("node-", i)}
	}
	synctest.Test(t, func(t *testing.T) {
		var asked, most atomic.Int32
		s := control.New(control.Config{Checks: nodesSay(func(ctx context.Context, node string, ids []string) ([]*taskpb.CheckResult, error) {
			n := asked.Add(1)
			defer asked.Add(-1)
			for was := most.Load(); n > was && !most.CompareAndSwap(was, n); was = most.Load() {
			}
			var i int
			fmt.Sscanf(node, "id-%d", &i)
			if i < hang {
				<-ctx.Done()
				return nil, ctx.Err()
			}
			time.Sleep(100 * time.Millisecond)
			return well(false, ids), nil
		})})
		var before, at runtime.MemStats
		runtime.GC()
		runtime.ReadMemStats(&before)
		begun, results, silent := time.Now(), 0, 0
		var peak uint64
		err := control.JudgeNodes(s, t.Context(), members, checks.All(), func(m checks.Member, rs []checks.Result) error {
			results += len(rs)
			if rs[0].Outcome == checks.Error {
				silent++
			}
			if results%1800 == 0 {
				runtime.ReadMemStats(&at)
				peak = max(peak, at.HeapAlloc)
			}
			return nil
		})
		took := time.Since(begun)
		t.Logf("%d nodes, %d of which hang: %s, %d asked at a time, heap %d KiB more", nodes, hang, took, most.Load(), (max(peak, before.HeapAlloc)-before.HeapAlloc)>>10)
		if err != nil || results != nodes*22 || silent != hang || most.Load() > 32 || took > time.Minute {
			t.Errorf("%v: %d results, %d silent, %d at a time, %s", err, results, silent, most.Load(), took)
		}
		stop := errors.New("nobody listens")
		told := 0
		if err := control.JudgeNodes(s, t.Context(), members[hang:], checks.All(), func(checks.Member, []checks.Result) error { told++; return stop }); !errors.Is(err, stop) || told != 1 {
			t.Errorf("%v after %d", err, told)
		}
	})
}

// checked has a server whose nodes answer so.
func (w *judged) checked(say nodesSay) {
	w.checks = say
	w.lookedAt(nil)
}

// judgedNodes is what a run tells of nodes.
func (w *judged) judgedNodes(t *testing.T) (out []*controlpb.RunComplianceResponse) {
	t.Helper()
	s := &sink[controlpb.RunComplianceResponse]{ctx: t.Context()}
	if err := w.api.RunCompliance(&controlpb.RunComplianceRequest{}, s); err != nil {
		t.Fatal(err)
	}
	for _, r := range s.pages {
		if r.GetNode() != "" {
			out = append(out, r)
		}
	}
	return out
}
