package e2e

import (
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/redoubt-cluster/redoubt/scheduler/imagepolicy/imagepolicytest"
)

// TestSabotage spoils a cluster in many ways by hand. Each time the report is red where
// something was spoilt, says what it was, and is red nowhere else; what it prints as
// remedies, done as printed, makes it green.
func TestSabotage(t *testing.T) {
	t.Parallel()
	begun := time.Now()
	s := &sabotaged{cluster: up(t, "sabot", 3, 2), dir: t.TempDir(), signer: imagepolicytest.NewSigner()}
	s.sound()
	for _, round := range []struct {
		name string
		all  []sabotage
	}{
		{"nobody made a backup", sabotagedBackup},
		{"what a cluster is told", sabotagedCluster},
		{"what services are made to be", sabotagedServices},
		{"files and daemons of nodes", sabotagedNodes},
		{"what runs on nodes", sabotagedTasks},
		{"a manager is lost", sabotagedLoss},
		{"a manager's disk", sabotagedManager},
	} {
		at := time.Now()
		if !t.Run(round.name, func(t *testing.T) {
			inner, c := *s, *s.cluster
			c.t = t
			inner.cluster = &c
			inner.round(round.all)
		}) {
			return
		}
		t.Logf("%s: %v", round.name, time.Since(at).Round(time.Second/10))
	}
	t.Logf("the story took %v", time.Since(begun).Round(time.Second))
}

// sabotaged is a lab whose reports are asked for on manager-2.
type sabotaged struct {
	*cluster
	dir    string
	signer *imagepolicytest.Signer // of the images
}

const reporter = "manager-2"

// sabotage is something that somebody does to a cluster.
type sabotage struct {
	name string
	// do does it, and tells what the report is to say.
	do func(*sabotaged) []said
	// mend does what the report prints as remedies.
	mend func(*sabotaged, printed)
	// renews: that has a node join anew, which is another one then.
	renews bool
}

// said is one line that a report is to have.
type said struct {
	control, target, evidence string
	soon                      bool // or not yet
}

// printed are remedies by control, as a report has them.
type printed map[string]string

// complianceJSON is what of a report the story looks at.
type complianceJSON struct {
	Compliant    bool
	Requirements []struct {
		ID       string
		Controls []string
		Outcome  string
	}
	Results []struct {
		controlJSON
		Remedy string
	}
}

// report writes a report to a file of that name, and gives it.
func (s *sabotaged) report(name string) (path string, r complianceJSON) {
	s.t.Helper()
	path = filepath.Join(s.dir, name+".json")
	run := s.on(reporter, "compliance", "run", "--profile", "redoubt-baseline", "--scope", "all", "--format", "json", "--out", path)
	text, err := os.ReadFile(path)
	if err != nil {
		s.t.Fatalf("%v: %v", run, err)
	}
	s.decode(string(text), &r)
	if want := map[bool]int{true: 0, false: 2}[r.Compliant]; run.code != want {
		s.t.Fatalf("a report that says compliant: %t ended with %v", r.Compliant, run)
	}
	return path, r
}

// bad are the results that are neither a pass nor of what is not there, by control and
// target.
func (r complianceJSON) bad() map[string]string {
	bad := map[string]string{}
	for _, x := range r.Results {
		if x.Outcome != "pass" && x.Outcome != "not-applicable" {
			bad[x.Control+" "+x.Target.Kind+"/"+x.Target.Name] = x.Outcome + ": " + strings.Join(x.Evidence, "\n")
		}
	}
	return bad
}

// round does all of it, and holds that the report is red in those places and in no
// other, against the report before; then that what is printed there mends it.
func (s *sabotaged) round(all []sabotage) {
	s.t.Helper()
	before := s.green("before", all)
	var want []said
	for _, x := range all {
		want = append(want, x.do(s)...)
	}
	var now string
	var r complianceJSON
	eventually(s.t, 90*time.Second, func() string {
		now, r = s.report("now")
		return differs(r.bad(), want)
	})
	if before != "" {
		s.changed(before, now, r, want)
	}
	remedies := printed{}
	for _, x := range r.Results {
		remedies[x.Control] = x.Remedy
	}
	for _, x := range all {
		x.mend(s, remedies)
	}
	after := s.green("after", nil)
	if before != "" && !all[0].renews {
		if out := s.ok(reporter, "compliance", "diff", before, after); out != "Nothing changed.\n" {
			s.t.Errorf("all is mended, and not as before:\n%s", out)
		}
	}
}

// green waits for a report that complies. Where the round is of a cluster that was not
// finished yet there is none.
func (s *sabotaged) green(name string, all []sabotage) (path string) {
	s.t.Helper()
	if len(all) > 0 && all[0].name == unfinished {
		return ""
	}
	eventually(s.t, 90*time.Second, func() string {
		var r complianceJSON
		if path, r = s.report(name); !r.Compliant {
			return fmt.Sprintf("%s: %v", name, r.bad())
		}
		return ""
	})
	return path
}

// differs says how what is red is not what is wanted.
func differs(bad map[string]string, want []said) string {
	seen := map[string]bool{}
	for _, w := range want {
		at := w.control + " " + w.target
		if is, red := bad[at]; !strings.Contains(is, w.evidence) && (red || !w.soon) {
			return fmt.Sprintf("%s says %q, want %q; all: %v", at, bad[at], w.evidence, bad)
		}
		seen[at] = true
	}
	maps.DeleteFunc(bad, func(at, _ string) bool { return seen[at] })
	if len(bad) > 0 {
		return fmt.Sprintf("red, too: %v", bad)
	}
	return ""
}

// changed holds what `compliance diff` tells of two reports against what was done.
func (s *sabotaged) changed(before, now string, r complianceJSON, want []said) {
	s.t.Helper()
	red := r.bad()
	want = slices.DeleteFunc(slices.Clone(want), func(w said) bool { return red[w.control+" "+w.target] == "" })
	run := s.on(reporter, "compliance", "diff", before, now, "--fail-on-new", "--format", "json")
	var all []struct{ Change, Kind, ID, Target string }
	if err := json.Unmarshal([]byte(run.stdout), &all); err != nil || run.code != 2 {
		s.t.Fatalf("diff: %v", run)
	}
	places, required := map[string]bool{}, map[string]bool{}
	for _, w := range want {
		places[w.control+" "+w.target] = true
		for _, q := range r.Requirements {
			if slices.Contains(q.Controls, w.control) {
				required[q.ID] = true
			}
		}
	}
	for _, x := range all {
		target, _, _ := strings.Cut(x.Target, " (")
		at := x.ID + " " + target
		switch {
		case x.Change == "new" && x.Kind == "control" && places[at]:
			delete(places, at)
		case x.Change == "new" && x.Kind == "requirement" && required[x.ID]:
			delete(required, x.ID)
		default:
			s.t.Errorf("diff tells of %+v, which nobody did", x)
		}
	}
	if len(places)+len(required) > 0 {
		s.t.Errorf("diff does not tell of %v and %v", slices.Collect(maps.Keys(places)), slices.Collect(maps.Keys(required)))
	}
}

// runs runs a command that is printed as a remedy, with what its words in capitals
// stand for.
func (s *sabotaged) runs(p printed, control, command string, words ...string) {
	s.t.Helper()
	s.says(p, control, command)
	text := strings.NewReplacer(words...).Replace(command)
	if r := s.runIn(reporter, text); r.code != 0 {
		s.t.Fatalf("the remedy of %s, %s: %v", control, text, r)
	}
}

// runIn runs a line of shell on a host.
func (s *sabotaged) runIn(host, line string) result {
	s.t.Helper()
	return run(s.t, nil, "lab", "exec", "--name", s.name, host, "--", "sh", "-ec", line)
}

// says holds that a remedy has those words; the caller does what they say.
func (s *sabotaged) says(p printed, control, words string) {
	s.t.Helper()
	if !strings.Contains(p[control], words) {
		s.t.Fatalf("the remedy of %s is %q, and not %q", control, p[control], words)
	}
}
