package cli

import (
	"encoding/json"
	"io"
	"strings"
	"testing"
)

// A row without its last cells must not end the columns of the others.
func TestTableStaysAlignedBesideEmptyCells(t *testing.T) {
	var b strings.Builder
	err := table(&b, []string{"ID", "STATE", "MANAGER", "ADDRESS"}, [][]string{
		{"a", "ready", "leader", "192.0.2.1"},
		{"b", "unknown", "", ""},
		{"c", "down", "", "192.0.2.3"},
	})
	if err != nil {
		t.Fatal(err)
	}
	lines := strings.Split(b.String(), "\n")
	want := strings.Index(lines[0], "ADDRESS")
	if got := strings.Index(lines[3], "192.0.2.3"); got != want {
		t.Errorf("the address stands at %d, its head at %d:\n%s", got, want, b.String())
	}
	for _, l := range lines {
		if l != strings.TrimRight(l, " ") {
			t.Errorf("%q ends in spaces", l)
		}
	}
}

// What a node says reaches the terminal as text in one line, in its own order.
func TestNothingHostileIsPrinted(t *testing.T) {
	const hostile = "a\x1b[31m\u009b2J\u202eb\u2066c\u2028d\ne\x7f"
	const want = "a[31m2Jbcd e"
	if got := printable(hostile); got != want {
		t.Errorf("%q, want %q", got, want)
	}
	if got := nodeLabel(hostile, "id"); got != want {
		t.Errorf("%q, want %q", got, want)
	}
	var b strings.Builder
	if err := (&output{quiet: true}).list(&b, []string{hostile}, nil, nil, nil); err != nil || b.String() != want+"\n" {
		t.Errorf("%q, %v, want %q", b.String(), err, want)
	}
	for _, print := range []func(io.Writer, any) error{printJSON, printLine} {
		b.Reset()
		var back []string
		if err := print(&b, []string{hostile}); err != nil || strings.ContainsFunc(strings.ReplaceAll(b.String(), "\n", ""), unshown) || json.Unmarshal([]byte(b.String()), &back) != nil || back[0] != hostile {
			t.Errorf("%q, %v", b.String(), err)
		}
	}
	if got := nodeLabel("\x1b", "\u202eabcdefghijklmnop"); strings.ContainsFunc(got, unshown) || got == "" {
		t.Errorf("a node without a name is called %q", got)
	}
}
