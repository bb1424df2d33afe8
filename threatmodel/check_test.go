package threatmodel

import (
	"strings"
	"testing"
)

func TestCheckFinds(t *testing.T) {
	if found := findings(t, small()); len(found) > 0 {
		t.Fatal(found)
	}
	for name, c := range map[string]struct{ old, new, want string }{
		"duplicated id":        {"id: T-002", "id: T-001", "T-001: the id is that of line 23, too"},
		"id of another form":   {"id: M-001", "id: M-1", "the id has another form"},
		"orphaned threat":      {"mitigations: [M-001]", "mitigations: []", "T-001: orphaned: it has no mitigation"},
		"orphaned mitigation":  {"threats:\n", "  - {id: M-002, title: x, effect: limits, tests: {pki: [TestX]}}\nthreats:\n", "M-002: orphaned: nothing refers to it"},
		"orphaned asset":       {"owners:\n", "  - {id: other, name: x, text: x}\nowners:\n", "other: orphaned"},
		"orphaned component":   {"flows:\n", "  - {id: other, name: x, zone: keys, text: x}\nflows:\n", "other: orphaned"},
		"unshown mitigation":   {"    tests:\n      pki: [TestJoin, TestLeave]\n    controls: [lock-is-shut]\n", "", "M-001: nothing shows it"},
		"package without test": {"[TestJoin, TestLeave]", "[]", "no test of pki is named"},
		"test twice":           {"[TestJoin, TestLeave]", "[TestJoin, TestJoin]", "test TestJoin is named twice"},
		"unknown control":      {"[lock-is-shut]", "[lock-is-shut, door-is-shut]", `control "door-is-shut" is not registered`},
		"orphaned control":     {"    controls: [lock-is-shut]\n", "", "lock-is-shut: orphaned: no mitigation is bound to this control"},
		"unknown mitigation":   {"mitigations: [M-001]", "mitigations: [M-001, M-009]", `mitigation "M-009" is not listed`},
		"unknown actor":        {"actor: quantum-recorder", "actor: somebody", `actor "somebody" is none of the list`},
		"actor without threat": {"actor: quantum-recorder", "actor: network-attacker", "quantum-recorder: no threat comes from this actor"},
		"unknown STRIDE":       {"[spoofing]", "[spooking]", `stride "spooking"`},
		"unknown technique":    {"[T1078]", "[T9999]", `attack "T9999" is no technique`},
		"no technique":         {"    attack: [T1078]\n", "", "give attack, or attack_none with the reason"},
		"both":                 {"    attack: [T1078]\n", "    attack: [T1078]\n    attack_none: x\n", "give attack, or attack_none with the reason"},
		"unknown tenet":        {"tenets: [1, 3]", "tenets: [8]", "tenet 8: there are 1 to 7"},
		"unknown level":        {"likelihood: low", "likelihood: maybe", `likelihood "maybe": give one of low, medium, high, critical`},
		"review is past":       {`review: "2026-11-23"`, `review: "2026-11-22"`, "T-001: the review of its residual risk was due on 2026-11-22"},
		"review is no day":     {`review: "2026-11-23"`, `review: soon`, `"soon" is no day`},
		"unknown owner":        {"owner: pki", "owner: nobody", `residual.owner "nobody" is not listed`},
		"no text":              {"text: a window", `text: ""`, "residual.text is missing"},
		"text without end":     {"text: a window", "text: " + strings.Repeat("x", maxText+1), "residual.text has 4097 bytes"},
		"flow to nowhere":      {"to: keyd", "to: nowhere", `"nowhere" is no component`},
		"zone of nothing":      {"components:\n", "  - {id: empty, name: x, trust: 1, text: x}\ncomponents:\n", "empty: nothing is in it"},
		"parent of a parent":   {"{id: node, name: A node, trust: 50", "{id: node, name: A node, parent: outside, trust: 50", "has a parent itself"},
		"trust past the end":   {"trust: 90", "trust: 101", "trust is 101"},
	} {
		text := strings.Replace(small(), c.old, c.new, 1)
		if text == small() {
			t.Fatalf("%s: %q is not there", name, c.old)
		}
		if found := findings(t, text); !strings.Contains(found, c.want) {
			t.Errorf("%s: %q, want %q", name, found, c.want)
		}
	}
	m := parse(t, small())
	if f := m.Check(today.AddDate(0, 0, 1), smallControls); len(f) != len(Actors) {
		t.Errorf("a day later: %v", f)
	}
}

func parse(t *testing.T, text string) *Model {
	t.Helper()
	m, err := Parse([]byte(text))
	if err != nil {
		t.Fatal(err)
	}
	return m
}

func findings(t *testing.T, text string) string {
	t.Helper()
	var all []string
	for _, f := range parse(t, text).Check(today, smallControls) {
		if f.Line == 0 {
			t.Errorf("%s: of no line", f)
		}
		all = append(all, f.String())
	}
	return strings.Join(all, "\n")
}
