package overlay

import (
	"net/netip"
	"slices"
	"testing"
)

// TestRelayPorts: where relays listen follows from the ports, whatever their order,
// is nobody else's, and stays when others come.
func TestRelayPorts(t *testing.T) {
	a, b := netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("192.0.2.2")
	all := []Port{
		{Published: 443, Target: 8443, Proxy: true},
		{Published: 80, Target: 8080},
		{Published: 80 + relayPorts, Target: 8081, Proxy: true}, // where that of 80 would be
		{Published: 25, Target: 25, Proxy: true, Host: a},
		{Published: 25, Target: 26, Proxy: true, Host: b},
		{Published: 53, Target: 53, Proxy: true, UDP: true},
		{Published: 5, Target: firstRelay + 6, Proxy: true},
		{Published: 6, Target: 60, Proxy: true}, // a program listens there
		{Published: 65535, Target: 9, Proxy: true},
	}
	want := map[Port]uint16{all[0]: 61443, all[2]: 61080, all[3]: 61025, all[4]: 61026, all[6]: 61005, all[7]: 61007, all[8]: firstRelay + 65535%relayPorts}
	for range 3 {
		slices.Reverse(all[1:])
		got := relaysOf(all)
		if len(got) != len(want) {
			t.Fatalf("%d relays: %v", len(got), got)
		}
		for _, r := range got {
			if want[r.Port] != r.Listen {
				t.Errorf("%s: %d, want %d", r.Port, r.Listen, want[r.Port])
			}
		}
		out := led(all)
		if len(out) != len(all)-1 {
			t.Errorf("led: %v", out)
		}
		for _, p := range out {
			if p.Proxy && p.Target < firstRelay {
				t.Errorf("%s leads past its relay", p)
			}
		}
	}
	if relaysOf(all[:0]) != nil || relaysOf([]Port{{Published: 1, Target: 1}}) != nil {
		t.Error("relays of nothing")
	}
	// As full as can be.
	var many []Port
	for i := range 64 {
		many = append(many, Port{Published: uint16(1 + i*relayPorts%65535), Target: uint16(firstRelay + i), Proxy: true})
	}
	seen := map[uint16]bool{}
	for _, r := range relaysOf(many) {
		if seen[r.Listen] || r.Listen < firstRelay+64 {
			t.Errorf("%s: %d is another's", r.Port, r.Listen)
		}
		seen[r.Listen] = true
	}
}
