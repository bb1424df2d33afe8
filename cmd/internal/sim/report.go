package main

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"os"
	"slices"
	"time"

	"github.com/redoubt-cluster/redoubt/cmd/internal/apiclient"
	"github.com/redoubt-cluster/redoubt/cmd/internal/control/controlpb"
	"github.com/redoubt-cluster/redoubt/cmd/internal/lab"
	"github.com/redoubt-cluster/redoubt/scheduler/schedulerpb"
	"github.com/redoubt-cluster/redoubt/scheduler/taskpb"
	"github.com/redoubt-cluster/redoubt/threatmodel/control"
	"github.com/redoubt-cluster/redoubt/threatmodel/report"
)

// answer is what a worker as it should be says of itself, with as much evidence as
// real ones have.
func answer(q *schedulerpb.CheckQuestion) *schedulerpb.AgentMessage {
	out := &schedulerpb.CheckAnswer{Id: q.GetId()}
	for _, c := range control.All() {
		if !slices.Contains(q.GetControls(), c.ID) {
			continue
		}
		r := &taskpb.CheckResult{Control: c.ID, Outcome: string(control.Pass), Took: int64(time.Millisecond),
			Evidence: []string{"17 files were looked at", "/var/lib/redoubt/node/identity/key.pem is 0600 of redoubtd", "/run/redoubt/control.sock is 0660 of root"}}
		if c.Scope == control.OfManager {
			r.Outcome, r.Evidence = string(control.NotApplicable), []string{"it is no manager"}
		}
		out.Results = append(out.Results, r)
	}
	return &schedulerpb.AgentMessage{Message: &schedulerpb.AgentMessage_Check{Check: out}}
}

// reports has the leader make reports of the whole cluster, one after the other: it asks
// every node over its session, judges, has its keyd sign, and keeps them. It prints how
// long that took to who asked, what the leader's memory grew by, and what the last one
// costs in every form.
func reports(ctx context.Context, l *lab.Lab, c *apiclient.Client, nodes, rounds int) error {
	var took []time.Duration
	var last *report.Report
	var rest, peak int64
	size := 0
	for range rounds {
		before, err := usages(l)
		if err != nil {
			return err
		}
		for _, u := range before { // begin the peak anew
			if len(took) == 0 {
				rest = max(rest, u.rss)
			}
			if err := os.WriteFile(fmt.Sprintf("/proc/%d/clear_refs", u.pid), []byte("5"), 0); err != nil {
				return err
			}
		}
		began := time.Now()
		resp, err := c.SignCompliance(ctx, &controlpb.SignComplianceRequest{})
		if err != nil {
			return apiclient.Err(err)
		}
		took = append(took, time.Since(began))
		after, err := measure(l)
		if err != nil {
			return err
		}
		peak, size = max(peak, after.peak), len(resp.GetReport().GetReport())
		if last, err = report.Read(bytes.NewReader(resp.GetReport().GetReport())); err != nil {
			return err
		}
	}
	said := map[string]bool{}
	for _, r := range last.Results {
		if r.Target.Kind == "node" && r.Outcome != control.Error {
			said[r.Target.ID] = true
		}
	}
	if len(said) != nodes {
		return fmt.Errorf("the report has answers of %d nodes, and there are %d", len(said), nodes)
	}
	began := time.Now()
	for _, f := range report.Formats() {
		if err := last.Write(io.Discard, f); err != nil {
			return err
		}
	}
	fmt.Printf("nodes=%d reports=%d: asked → signed and here %s; %d results, %d KiB as JSON; a manager's RSS %dMiB at rest, peak %dMiB; written in all %d forms in %v\n",
		nodes, rounds, spread(took), len(last.Results), size>>10, rest>>20, peak>>20, len(report.Formats()), time.Since(began).Round(time.Millisecond))
	return nil
}
