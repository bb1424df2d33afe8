package report

import (
	"bytes"
	"encoding/json"
	"encoding/xml"
	"io"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"
	"github.com/santhosh-tekuri/jsonschema/v6"

	"github.com/redoubt-cluster/redoubt/threatmodel/control"
	"github.com/redoubt-cluster/redoubt/threatmodel/profile"
)

var (
	oscalSchema = sync.OnceValues(func() (*jsonschema.Schema, error) {
		return jsonschema.NewCompiler().Compile("../schema/oscal_complete_schema-1-2-2.json")
	})
	sarifSchema = sync.OnceValues(func() (*jsonschema.Schema, error) {
		return jsonschema.NewCompiler().Compile("../schema/sarif-schema-2.1.0.json")
	})
)

// empty is a report of a profile that nothing was judged by.
func empty(t testing.TB) *Report {
	t.Helper()
	r, err := New(&profile.Profile{ID: "none", Title: "None", Requirements: []profile.Requirement{{ID: "1", Title: "x", Coverage: profile.Outside, Controls: []string{}, Note: "x"}}}, "", nil, nil, begun, ended)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func valid(t *testing.T, schema func() (*jsonschema.Schema, error), text []byte) error {
	t.Helper()
	s, err := schema()
	if err != nil {
		t.Fatal(err)
	}
	v, err := jsonschema.UnmarshalJSON(bytes.NewReader(text))
	if err != nil {
		t.Fatal(err)
	}
	return s.Validate(v)
}

// TestOSCAL: the schema of NIST takes it, and would not take another thing.
func TestOSCAL(t *testing.T) {
	for _, r := range []*Report{sample(t), empty(t), waived(t, waiver("w1", "lock", of("n1"), begun.Add(time.Hour)))} {
		text := written(t, r, "oscal")
		if err := valid(t, oscalSchema, text); err != nil {
			t.Errorf("%v\n%s", err, text)
		}
	}
	text := string(written(t, sample(t), "oscal"))
	for old, new := range map[string]string{`"oscal-version"`: `"version-of-oscal"`, `"not-satisfied"`: `"maybe"`, `"target-id": "_7.1"`: `"target-id": "7.1"`} {
		if bad := strings.Replace(text, old, new, 1); bad == text || valid(t, oscalSchema, []byte(bad)) == nil {
			t.Errorf("%s in place of %s is valid", new, old)
		}
	}
	var doc struct {
		Results struct {
			Results []struct {
				Observations []struct{ UUID string }
				Findings     []struct {
					Target struct {
						ID     string `json:"target-id"`
						Status struct{ State, Reason string }
					}
					Related []struct {
						UUID string `json:"observation-uuid"`
					} `json:"related-observations"`
				}
			}
		} `json:"assessment-results"`
	}
	if err := json.Unmarshal([]byte(text), &doc); err != nil {
		t.Fatal(err)
	}
	x := doc.Results.Results[0]
	if len(x.Observations) != 5 || len(x.Findings) != 3 {
		t.Fatalf("%d observations, %d findings", len(x.Observations), len(x.Findings))
	}
	known := map[string]bool{}
	for _, o := range x.Observations {
		known[o.UUID] = true
	}
	if len(known) != 5 {
		t.Error("observations share a UUID")
	}
	for i, want := range []string{"_7.1 not-satisfied fail", "A.2 not-satisfied other", "_3 not-satisfied other"} {
		f := x.Findings[i]
		if got := f.Target.ID + " " + f.Target.Status.State + " " + f.Target.Status.Reason; got != want {
			t.Errorf("%s, want %s", got, want)
		}
		for _, o := range f.Related {
			if !known[o.UUID] {
				t.Errorf("%s refers to %s, which is not there", f.Target.ID, o.UUID)
			}
		}
	}
	var all any
	if err := json.Unmarshal([]byte(text), &all); err != nil {
		t.Fatal(err)
	}
	eachText(all, "", func(key, s string) {
		if marked := key == "title" || key == "description" || key == "remarks"; marked && (strings.Contains(s, "<") || strings.Contains(s, " [x](")) {
			t.Errorf("a name is markup in a %s: %s", key, s)
		}
	})
}

// eachText calls f with all texts of a JSON document and their keys.
func eachText(v any, key string, f func(key, text string)) {
	switch v := v.(type) {
	case map[string]any:
		for k, x := range v {
			eachText(x, k, f)
		}
	case []any:
		for _, x := range v {
			eachText(x, key, f)
		}
	case string:
		f(key, v)
	}
}

// TestSARIF: the schema of OASIS takes it, and would not take another thing.
func TestSARIF(t *testing.T) {
	for _, r := range []*Report{sample(t), empty(t), waived(t, waiver("w1", "lock", of("n1"), begun.Add(time.Hour)))} {
		text := written(t, r, "sarif")
		if err := valid(t, sarifSchema, text); err != nil {
			t.Errorf("%v\n%s", err, text)
		}
	}
	text := string(written(t, sample(t), "sarif"))
	for old, new := range map[string]string{`"kind": "fail"`: `"kind": "bad"`, `"ruleId"`: `"rule"`, `"executionSuccessful": false`: `"executionSuccessful": 0`} {
		if bad := strings.Replace(text, old, new, 1); bad == text || valid(t, sarifSchema, []byte(bad)) == nil {
			t.Errorf("%s in place of %s is valid", new, old)
		}
	}
	var log struct {
		Runs []struct {
			Tool struct {
				Driver struct{ Rules []struct{ ID string } }
			}
			Invocations []struct{ ExecutionSuccessful *bool }
			Results     []struct {
				RuleID, Kind, Level string
				RuleIndex           int
				Message             struct{ Text string }
			}
		}
	}
	if err := json.Unmarshal([]byte(text), &log); err != nil {
		t.Fatal(err)
	}
	run := log.Runs[0]
	if len(run.Results) != 5 || len(run.Tool.Driver.Rules) != 3 {
		t.Fatalf("%d results, %d rules", len(run.Results), len(run.Tool.Driver.Rules))
	}
	for i, want := range []string{"lock fail error", "bolt open none", "lock pass none", "lamp pass none", "lamp notApplicable none"} {
		x := run.Results[i]
		if got := x.RuleID + " " + x.Kind + " " + x.Level; got != want {
			t.Errorf("%s, want %s", got, want)
		}
		if rule := run.Tool.Driver.Rules[x.RuleIndex]; rule.ID != x.RuleID {
			t.Errorf("%s has the rule of %s", x.RuleID, rule.ID)
		}
		if m := x.Message.Text; strings.Contains(m, " [x](") || strings.Contains(m, " {0}") {
			t.Errorf("a name is a link or a placeholder: %s", m)
		}
	}
	if ok := run.Invocations[0].ExecutionSuccessful; ok == nil || *ok {
		t.Error("what could not be evaluated is a success")
	}
}

func TestPrometheus(t *testing.T) {
	for _, r := range []*Report{sample(t), empty(t)} {
		p := expfmt.NewTextParser(model.LegacyValidation)
		families, err := p.TextToMetricFamilies(bytes.NewReader(written(t, r, "prometheus")))
		if err != nil {
			t.Fatal(err)
		}
		if got := len(families["redoubt_compliance_control"].GetMetric()); got != len(r.Results) {
			t.Errorf("%d results, want %d", got, len(r.Results))
		}
		if got := families["redoubt_compliance_compliant"].GetMetric()[0].GetGauge().GetValue(); got != 0 {
			t.Errorf("compliant: %v", got)
		}
	}
}

// TestJUnit: counts are true, and nothing that was not evaluated is green.
func TestJUnit(t *testing.T) {
	var doc struct {
		Suites []struct {
			Name                             string     `xml:"name,attr"`
			Tests, Failures, Errors, Skipped int        `xml:"-"`
			Attrs                            []xml.Attr `xml:",any,attr"`
			Cases                            []struct {
				Name    string    `xml:"name,attr"`
				Failure *struct{} `xml:"failure"`
				Error   *struct{} `xml:"error"`
				Skipped *struct{} `xml:"skipped"`
			} `xml:"testcase"`
		} `xml:"testsuite"`
	}
	if err := xml.Unmarshal(written(t, sample(t), "junit"), &doc); err != nil {
		t.Fatal(err)
	}
	want := []map[string]string{{"tests": "5", "failures": "1", "errors": "1", "skipped": "1"}, {"tests": "4", "failures": "1", "errors": "1", "skipped": "1"}}
	for i, s := range doc.Suites {
		failures, errors, skipped := 0, 0, 0
		for _, c := range s.Cases {
			switch {
			case c.Failure != nil:
				failures++
			case c.Error != nil:
				errors++
			case c.Skipped != nil:
				skipped++
			}
		}
		if len(s.Cases) != []int{5, 4}[i] || failures != 1 || errors != 1 || skipped != 1 {
			t.Errorf("%s: %d cases, %d failures, %d errors, %d skipped", s.Name, len(s.Cases), failures, errors, skipped)
		}
		for _, a := range s.Attrs {
			if w, there := want[i][a.Name.Local]; there && w != a.Value {
				t.Errorf("%s: %s=%s, want %s", s.Name, a.Name.Local, a.Value, w)
			}
		}
	}
}

// TestXCCDF: every result is of a rule that is there, each id is given once. That
// the schema takes it, oscap says (TestInteropXCCDF).
func TestXCCDF(t *testing.T) {
	for _, r := range []*Report{sample(t), empty(t)} {
		d := xml.NewDecoder(bytes.NewReader(written(t, r, "xccdf")))
		ids, refs, results := map[string]bool{}, 0, []string{}
		inResult := false
		for {
			token, err := d.Token()
			if err == io.EOF {
				break
			}
			if err != nil {
				t.Fatal(err)
			}
			switch x := token.(type) {
			case xml.StartElement:
				inResult = x.Name.Local == "result"
				if x.Name.Space != "http://checklists.nist.gov/xccdf/1.2" {
					t.Errorf("%s is of %q", x.Name.Local, x.Name.Space)
				}
				for _, a := range x.Attr {
					switch a.Name.Local {
					case "id":
						if ids[a.Value] {
							t.Errorf("%s is given twice", a.Value)
						}
						ids[a.Value] = true
					case "idref":
						refs++
						if !ids[a.Value] {
							t.Errorf("no rule is called %s", a.Value)
						}
					}
				}
			case xml.CharData:
				if inResult {
					results = append(results, string(x))
				}
			case xml.EndElement:
				inResult = false
			}
		}
		if refs != len(r.Requirements)+len(r.Results) {
			t.Errorf("%d results", refs)
		}
		if len(r.Results) > 0 {
			if got := strings.Join(results, " "); got != "fail informational notchecked notchecked fail error pass pass notapplicable" {
				t.Error(got)
			}
		}
	}
}

// TestMany: ten thousand findings are written in every form, and a writer holds no
// more than a little of it.
func TestMany(t *testing.T) {
	var results []Result
	evidence := make([]string, 5)
	for i := range evidence {
		evidence[i] = strings.Repeat("x", 100) + string(rune('a'+i))
	}
	for i := range 10_000 {
		results = append(results, result([]string{"lock", "bolt"}[i%2], control.High, control.Fail, strings.Repeat("n", 1+i/100)+"-"+string(rune('a'+i%100)), evidence...))
	}
	r, err := New(small(), "", results, nil, begun, ended)
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range Formats() {
		w, begun := &meter{}, time.Now()
		runtime.GC()
		runtime.ReadMemStats(&w.at)
		w.before, w.most = w.at.HeapAlloc, w.at.HeapAlloc
		if err := r.Write(w, f); err != nil {
			t.Fatal(err)
		}
		grown := (w.most - w.before) >> 20
		t.Logf("%s: %d MiB written in %s, %d MiB held", f, w.n>>20, time.Since(begun).Round(time.Millisecond), grown)
		if w.n < 1<<19 {
			t.Errorf("%s: only %d bytes", f, w.n)
		}
		if grown > 3 {
			t.Errorf("%s holds %d MiB of %d MiB", f, grown, w.n>>20)
		}
	}
}

// meter counts what is written, and looks now and then at what is alive.
type meter struct {
	n, looked    int
	before, most uint64
	at           runtime.MemStats
}

func (m *meter) Write(b []byte) (int, error) {
	m.n += len(b)
	if m.n-m.looked > 4<<20 || m.looked == 0 {
		m.looked = m.n
		runtime.GC()
		runtime.ReadMemStats(&m.at)
		m.most = max(m.most, m.at.HeapAlloc)
	}
	return len(b), nil
}
