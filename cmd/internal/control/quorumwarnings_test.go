package control

import (
	"fmt"
	"strings"
	"testing"

	"github.com/redoubt-cluster/redoubt/cmd/internal/control/controlpb"
)

func TestQuorumWarnings(t *testing.T) {
	type m = managerFact
	fact := func(name, host, zone string, voter, up, locked bool) m {
		return m{&controlpb.ManagerStatus{NodeId: "id-" + name, Name: name, Address: host + ":2377", Voter: voter, Reachable: up, Locked: locked}, zone}
	}
	well := func(n int) (out []m) {
		for i := range n {
			out = append(out, fact(string(rune('a'+i)), fmt.Sprintf("192.0.2.%d", i), "", true, true, false))
		}
		return out
	}
	for _, c := range []struct {
		name     string
		managers []m
		want     []string // one substring for each warning, in order
	}{
		{"three in good order", well(3), nil},
		{"five in good order", well(5), nil},
		{"one", well(1), []string{"one manager only"}},
		{"four", well(4), []string{"4 managers vote and bear no more losses than 3"}},
		{"one of three locked", append(well(2), fact("c", "192.0.2.9", "", true, false, true)),
			[]string{"manager c is locked: `redoubt unlock`", "loss of one more manager stops the cluster: 2 of 3"}},
		{"one of three down", append(well(2), fact("c", "192.0.2.9", "", true, false, false)),
			[]string{"manager c is down", "loss of one more manager stops"}},
		{"one of five down", append(well(4), fact("e", "192.0.2.9", "", true, false, false)), []string{"manager e is down"}},
		{"one follows still", append(well(3), fact("d", "192.0.2.9", "", false, true, false)), []string{"manager d has no vote yet"}},
		{"two of three in a zone", []m{fact("a", "h1", "west", true, true, false), fact("b", "h2", "west", true, true, false), fact("c", "h3", "east", true, true, false)},
			[]string{"managers a, b share zone west"}},
		{"two of five in a zone", append(well(3), fact("d", "h4", "west", true, true, false), fact("e", "h5", "west", true, true, false)), nil},
		{"three on one host", []m{fact("a", "h1", "", true, true, false), fact("b", "h1", "", true, true, false), fact("c", "h1", "", true, true, false)},
			[]string{"managers a, b, c share the address h1"}},
	} {
		got := quorumWarnings(c.managers)
		left := append([]string(nil), got...)
		for _, want := range c.want {
			found := false
			for i, w := range left {
				if strings.Contains(w, want) {
					left, found = append(left[:i], left[i+1:]...), true
					break
				}
			}
			if !found {
				t.Errorf("%s: nothing says %q in %q", c.name, want, got)
			}
		}
		if len(left) > 0 {
			t.Errorf("%s: too much is said: %q", c.name, left)
		}
		for _, w := range got {
			if !strings.Contains(w, "`redoubt ") {
				t.Errorf("%s: %q names no command", c.name, w)
			}
		}
	}
}
