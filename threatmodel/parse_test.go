package threatmodel

import (
	"fmt"
	"os"
	"strings"
	"testing"
	"time"
)

// today is a day on which the small model is in order.
var today = time.Date(2026, 11, 23, 12, 0, 0, 0, time.UTC)

// small is a model in order: one of each thing, and a threat of each actor.
func small() string {
	var b strings.Builder
	b.WriteString(`version: 1
zones:
  - {id: outside, name: Outside, trust: 0, text: x}
  - {id: node, name: A node, trust: 50, text: x}
  - {id: keys, name: Keys, parent: node, trust: 90, text: x}
components:
  - {id: wire, name: The wire, zone: outside, text: x}
  - {id: keyd, name: keyd, zone: keys, text: x}
flows:
  - {id: F-001, name: packets, from: wire, to: keyd, text: x}
assets:
  - {id: state, name: State, confidentiality: 1, integrity: 2, availability: 3, text: x}
owners:
  - {id: pki, text: x}
mitigations:
  - id: M-001
    title: a lock
    effect: prevents
    tests:
      pki: [TestJoin, TestLeave]
    controls: [lock-is-shut]
threats:
`)
	for i, a := range Actors {
		fmt.Fprintf(&b, `  - id: T-%03d
    title: opening it
    stride: [spoofing]
    actor: %s
    asset: state
    component: keyd
    attack: [T1078]
    tenets: [1, 3]
    likelihood: low
    impact: high
    text: they try the door
    mitigations: [M-001]
    residual: {risk: low, text: a window, owner: pki, review: "2026-11-23"}
`, i+1, a.ID)
	}
	b.WriteString("non_goals:\n  - {id: N-001, text: windows}\n")
	return b.String()
}

var smallControls = []string{"lock-is-shut"}

func TestParseRefuses(t *testing.T) {
	if _, err := Parse([]byte(small())); err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct{ old, new, want string }{
		"unknown key":           {"    effect: prevents\n", "    effect: prevents\n    colour: red\n", `line 19: unknown key "colour"`},
		"unknown list":          {"owners:", "owner:", `unknown key "owner"`},
		"unknown key in flow":   {"trust: 0,", "trust: 0, turst: 1,", `line 3: unknown key "turst"`},
		"unknown in residual":   {`owner: pki, review`, `owners: pki, review`, `unknown key "owners"`},
		"key twice":             {"    effect: prevents\n", "    effect: prevents\n    effect: limits\n", `mapping key "effect" already defined`},
		"package twice":         {"      pki: [TestJoin, TestLeave]\n", "      pki: [TestJoin]\n      pki: [TestLeave]\n", `mapping key "pki" already defined`},
		"another type":          {"trust: 50", "trust: much", "line 4: a text `much` stands where there should be a number"},
		"a test without a list": {"pki: [TestJoin, TestLeave]", "pki: {TestJoin: 1}", "where there should be a list"},
		"anchor":                {"[TestJoin, TestLeave]", "&a [TestJoin, TestLeave]", "anchors and aliases are not taken"},
		"another version":       {"version: 1", "version: 2", "version 2"},
		"second document":       {"non_goals:", "---\nnon_goals:", "more than one YAML document"},
	} {
		text := strings.Replace(small(), c.old, c.new, 1)
		if text == small() {
			t.Fatalf("%s: %q is not there", name, c.old)
		}
		if _, err := Parse([]byte(text)); err == nil || !strings.Contains(err.Error(), c.want) || strings.Contains(err.Error(), "\n") {
			t.Errorf("%s: %v, want %q on one line", name, err, c.want)
		}
	}
	for text, want := range map[string]string{"": "empty", "[]": "a list stands where", strings.Repeat("#", maxFile+1): "larger than"} {
		if _, err := Parse([]byte(text)); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%.9q: %v, want %q", text, err, want)
		}
	}
}

// FuzzParse: whatever is read is refused in one line, or can be checked, and
// drawn where nothing is found.
func FuzzParse(f *testing.F) {
	f.Add([]byte(small()))
	if data, err := os.ReadFile("threats.yaml"); err == nil {
		f.Add(data)
	}
	f.Add([]byte("version: 1\nthreats: [{}]\nmitigations: [{tests: {a: []}}]"))
	f.Add([]byte("version: 1\nzones: [{id: a, parent: a}]"))
	f.Fuzz(func(t *testing.T, data []byte) {
		m, err := Parse(data)
		if err != nil {
			if err.Error() == "" || strings.Contains(err.Error(), "\n") {
				t.Fatalf("%q", err)
			}
			return
		}
		found := m.Check(today, smallControls)
		m.CheckTests(Tests{})
		m.CheckRan(Tests{}, Unit, Results{})
		if len(found) > 0 {
			return
		}
		m.Markdown(Tests{})
		out, err := m.OTM()
		if err != nil {
			t.Fatal(err)
		}
		if err := valid(t, out); err != nil {
			t.Fatal(err)
		}
	})
}
