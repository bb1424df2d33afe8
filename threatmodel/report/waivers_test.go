package report

import (
	"bytes"
	"strings"
	"testing"
	"time"

	"github.com/redoubt-cluster/redoubt/threatmodel/control"
	"github.com/redoubt-cluster/redoubt/threatmodel/profile"
)

func of(id string) Target { return Target{"node", "host-" + id, id} }

func waiver(id, control string, scope Target, expires time.Time) Waiver {
	return Waiver{ID: id, Control: control, Scope: scope, Reason: "it is welded " + hostile, Asked: "root of m1", Approved: "person bob", Expires: expires, Evidence: []string{"open", "rusty"}}
}

// waived is a report in which a control fails on two nodes, and is waived on one.
func waived(t testing.TB, waivers ...Waiver) *Report {
	t.Helper()
	lock := func(o control.Outcome, id string) Result {
		return Result{Control: "lock", Title: "lock holds", Severity: control.High, Target: of(id), Outcome: o, Evidence: []string{"open"}, Remedy: "mend lock"}
	}
	p := &profile.Profile{ID: "p", Title: "p", Requirements: []profile.Requirement{{ID: "q", Title: "q", Coverage: profile.Full, Controls: []string{"lock"}}}}
	r, err := New(p, "c1", []Result{lock(control.Fail, "n1"), lock(control.Pass, "n2")}, waivers, begun, ended)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// TestWaivers: a waiver changes what failed of what it names, until it ends, and is
// a finding where it is good for nothing.
func TestWaivers(t *testing.T) {
	later := begun.Add(time.Hour)
	for name, c := range map[string]struct {
		waivers   []Waiver
		lock, own control.Outcome // of lock on n1, and of the waivers
		states    string
		compliant bool
	}{
		"none":                 {nil, control.Fail, "", "", false},
		"in use":               {[]Waiver{waiver("w1", "lock", of("n1"), later)}, Waived, control.Pass, "used", true},
		"expired":              {[]Waiver{waiver("w1", "lock", of("n1"), begun)}, control.Fail, control.Fail, "expired", false},
		"of another":           {[]Waiver{waiver("w1", "lock", of("n2"), later)}, control.Fail, control.Fail, "unused", false},
		"of one not judged":    {[]Waiver{waiver("w1", "lock", of("n4"), later)}, control.Fail, control.Pass, "idle", false},
		"of another's control": {[]Waiver{waiver("w1", "lamp", of("n1"), later)}, control.Fail, "", "", false},
		"of a name":            {[]Waiver{waiver("w1", "lock", Target{"node", "host-n1", ""}, later)}, control.Fail, control.Pass, "idle", false},
		"of the cluster":       {[]Waiver{waiver("w1", "lock", Target{Kind: "cluster"}, later)}, control.Fail, control.Pass, "idle", false},
		"one more in vain":     {[]Waiver{waiver("w1", "lock", of("n1"), later), waiver("w2", "lock", of("n2"), later)}, Waived, control.Fail, "used unused", false},
		"twice":                {[]Waiver{waiver("w1", "lock", of("n1"), later), waiver("w2", "lock", of("n1"), later)}, Waived, control.Fail, "used unused", false},
		"of the waivers":       {[]Waiver{waiver("w1", WaiversControl, Target{Kind: "cluster"}, later)}, control.Fail, "", "", false},
	} {
		r := waived(t, c.waivers...)
		said := map[string]control.Outcome{}
		for _, x := range r.Results {
			if x.Target.ID != "n2" {
				said[x.Control] = x.Outcome
			}
		}
		var states []string
		for _, w := range r.Waivers {
			states = append(states, w.State)
		}
		if said["lock"] != c.lock || said[WaiversControl] != c.own || strings.Join(states, " ") != c.states || r.Compliant != c.compliant {
			t.Errorf("%s: %v, %v, complies: %t", name, said, states, r.Compliant)
		}
		if _, err := Read(bytes.NewReader(written(t, r, "json"))); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	other := waiver("w1", "lock", of("n1"), later)
	other.Evidence = []string{"rusty"}
	if r := waived(t, other); r.Results[0].Outcome != control.Fail || r.Waivers[0].State != WaiverOutgrown || r.Compliant || !strings.Contains(string(written(t, r, "json")), "fails in a way that nobody waived") {
		t.Errorf("what nobody has seen is waived: %v", r)
	}
	for _, more := range []string{"and 3 more", "and more, which is too much to tell"} {
		w, x := waiver("w1", "lock", of("n1"), later), Result{Control: "lock", Severity: control.High, Target: of("n1"), Outcome: control.Fail, Evidence: []string{"open", more}}
		w.Evidence = x.Evidence
		if r, err := New(small(), "", []Result{x}, []Waiver{w}, begun, ended); err != nil || r.Results[0].Outcome != control.Fail || r.Waivers[0].State != WaiverOutgrown {
			t.Errorf("what was counted alone is waived: %v, %v", r, err)
		}
	}
	lamp := Result{Control: "lock", Severity: control.High, Target: of("n1"), Outcome: control.Error}
	r, err := New(small(), "", []Result{lamp}, []Waiver{waiver("w1", "lock", of("n1"), later)}, begun, ended)
	if err != nil || r.Results[0].Outcome != control.Error || r.Waivers[0].State != WaiverIdle {
		t.Errorf("what could not be evaluated is waived: %v, %v", r, err)
	}
}

// TestWaiversUnknown: a report for which nobody could ask for waivers does not comply.
func TestWaiversUnknown(t *testing.T) {
	good := Result{Control: "lock", Title: "lock holds", Severity: control.High, Target: of("n1"), Outcome: control.Pass, Evidence: []string{"shut"}, Remedy: "mend lock"}
	p := &profile.Profile{ID: "p", Title: "p", Requirements: []profile.Requirement{{ID: "q", Title: "q", Coverage: profile.Full, Controls: []string{"lock"}}}}
	r, err := New(p, "c1", []Result{good}, nil, begun, ended)
	if err != nil || !r.Compliant {
		t.Fatal(err)
	}
	r.WaiversUnknown("no leader")
	if x := r.Results[0]; r.Compliant || x.Control != WaiversControl || x.Outcome != control.Error || x.Evidence[0] != "no leader" {
		t.Errorf("%v", r)
	}
	if _, err := Read(bytes.NewReader(written(t, r, "json"))); err != nil {
		t.Error(err)
	}
}

// TestWaivedReadBack: a report cannot waive what it has no waiver for.
func TestWaivedReadBack(t *testing.T) {
	text := string(written(t, waived(t, waiver("w1", "lock", of("n1"), begun.Add(time.Hour)), waiver("w2", "lock", of("n2"), begun.Add(time.Hour))), "json"))
	for name, c := range map[string]struct{ old, new, want string }{
		"no such waiver":    {`"waiver": "w1"`, `"waiver": "w9"`, "waived by no waiver"},
		"one in vain":       {`"waiver": "w1"`, `"waiver": "w2"`, "waived by no waiver"},
		"nobody's":          {`"waiver": "w1"`, `"waiver": ""`, "waived by no waiver"},
		"another line":      {`"open",`, `"shut",`, "waived by no waiver"},
		"waived that holds": {`"outcome": "pass"`, `"outcome": "waived"`, "waived by no waiver"},
		"used now":          {`"state": "unused"`, `"state": "used"`, "not as it says"},
		"another state":     {`"state": "unused"`, `"state": "fine"`, "out of bounds"},
		"ended":             {`"expires": "2026-11-23T04`, `"expires": "2025-11-23T04`, "out of bounds"},
	} {
		bad := strings.Replace(text, c.old, c.new, 1)
		if bad == text {
			t.Fatalf("%s: %q is not there in %s", name, c.old, text)
		}
		if _, err := Read(strings.NewReader(bad)); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v, want %q", name, err, c.want)
		}
	}
}

// TestWaivedForms: every form says that it is waived, by whom and why, and none that
// it passes.
func TestWaivedForms(t *testing.T) {
	r := waived(t, waiver("w1", "lock", of("n1"), begun.Add(time.Hour)))
	for format, want := range map[string]string{
		"html": "Compliant but for what is waived: 1 of the results fail", "json": `"outcome": "waived"`, "junit": `<skipped message="waived">waived until 2026-11-23 by person bob`,
		"oscal": "waived until 2026-11-23 by person bob", "prometheus": `outcome="waived"`, "sarif": `"status": "accepted"`, "xccdf": `<message severity="warning">waived until 2026-11-23 by person bob`,
	} {
		if text := string(written(t, r, format)); !strings.Contains(text, want) || strings.Contains(text, "<script") {
			t.Errorf("%s has no %q:\n%s", format, want, text)
		}
	}
	if c, err := Compare(waived(t), r); err != nil || len(c) == 0 || c[0].Change != ChangeWaived {
		t.Errorf("%v, %v", c, err)
	}
}
