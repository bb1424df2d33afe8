package e2e

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"

	checks "github.com/redoubt-cluster/redoubt/threatmodel/control"
	"github.com/redoubt-cluster/redoubt/threatmodel/report"
)

// TestReportTimes measures a whole report of five nodes and REDOUBT_REPORT_SERVICES
// services (5) of one task each, by the command that an operator gives on a manager,
// REDOUBT_REPORT_ROUNDS times (2). Nothing in it may be unjudged.
func TestReportTimes(t *testing.T) {
	services, rounds, measured := 5, 2, false
	for name, n := range map[string]*int{"REDOUBT_REPORT_SERVICES": &services, "REDOUBT_REPORT_ROUNDS": &rounds} {
		if v, err := strconv.Atoi(os.Getenv(name)); err == nil && v > 0 {
			*n, measured = v, true
		}
	}
	if !measured {
		t.Parallel()
	}
	c := up(t, "report-times", 3, 2)
	c.load()
	var g errgroup.Group
	g.SetLimit(4)
	for i := range services {
		g.Go(func() error {
			if r := c.on("manager-1", "service", "create", "--timeout", "3m", "--name", fmt.Sprint("web-", i), "--user", "65532", image); r.code != 0 {
				return fmt.Errorf("service create: %v", r)
			}
			return nil
		})
	}
	if err := g.Wait(); err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "report.json")
	one := func() (took time.Duration, unjudged string) {
		t.Helper()
		began := time.Now()
		r := c.on("manager-1", "compliance", "run", "--profile", "redoubt-baseline", "--scope", "all", "--format", "json", "--out", file)
		took = time.Since(began)
		if r.code != 0 && r.code != 2 { // a lab has what a cluster should not have
			t.Fatal(r)
		}
		rep, err := report.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		judged := map[string]bool{}
		for _, x := range rep.Results {
			if x.Outcome == checks.Error {
				unjudged += fmt.Sprintf("%s of %s %s: %v\n", x.Control, x.Target.Kind, x.Target.Name, x.Evidence)
			}
			judged[x.Target.ID] = true
		}
		if len(judged) != 6 {
			unjudged += fmt.Sprintf("it judges %d, not five nodes and the cluster", len(judged))
		}
		return took, unjudged
	}
	eventually(t, 2*time.Minute, func() string { _, unjudged := one(); return unjudged }) // of clocks nothing is known in the first seconds
	var took []time.Duration
	for range rounds {
		d, unjudged := one()
		if unjudged != "" {
			t.Error(unjudged)
		}
		took = append(took, d)
	}
	t.Logf("in turn %v", took)
	slices.Sort(took)
	t.Logf("a report of 5 nodes, %d services: median %v, %v to %v", services, took[len(took)/2].Round(time.Millisecond), took[0].Round(time.Millisecond), took[len(took)-1].Round(time.Millisecond))
}
