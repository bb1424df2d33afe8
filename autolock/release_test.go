package autolock

import (
	"net/netip"
	"testing"
	"time"

	"github.com/redoubt-cluster/redoubt/autolock/keyd/keydpb"
	"github.com/redoubt-cluster/redoubt/internal/ident"
)

func TestMayRelease(t *testing.T) {
	inside, outside := netip.MustParseAddr("10.1.2.3"), netip.MustParseAddr("192.0.2.1")
	for _, c := range []struct {
		window string
		at     string
		from   netip.Addr
		ok     bool
	}{
		{"", "12:00", inside, true},
		{"", "12:00", netip.MustParseAddr("::ffff:10.1.2.3"), true},
		{"", "12:00", outside, false},
		{"", "12:00", netip.Addr{}, false},
		{"02:00-05:00", "01:59", inside, false},
		{"02:00-05:00", "02:00", inside, true},
		{"02:00-05:00", "04:59", inside, true},
		{"02:00-05:00", "05:00", inside, false},
		{"22:30-01:00", "22:29", inside, false},
		{"22:30-01:00", "23:59", inside, true},
		{"22:30-01:00", "00:59", inside, true},
		{"22:30-01:00", "01:00", inside, false},
	} {
		from, until, err := ParseWindow(c.window)
		if err != nil {
			t.Fatal(err)
		}
		p := &keydpb.ReleasePolicy{From: from, Until: until, Networks: []string{"10.0.0.0/8"}}
		if Window(p) != c.window {
			t.Errorf("%q is read as %q", c.window, Window(p))
		}
		at, _ := time.Parse("15:04", c.at)
		if err := MayRelease(p, c.from, at.In(time.FixedZone("east", 7200))); (err == nil) != c.ok {
			t.Errorf("window %q at %s from %s: %v", c.window, c.at, c.from, err)
		}
	}
	for _, text := range []string{"2-5", "02:00", "02:00-24:01", "02:00-02:00", "-", "02:00-05:00-06:00"} {
		if _, _, err := ParseWindow(text); err == nil {
			t.Errorf("window %q is read", text)
		}
	}
}

func TestCheckRelease(t *testing.T) {
	good := func() *keydpb.Slot {
		return &keydpb.Slot{Id: ident.New(), Name: "release", Kind: keydpb.SlotKind_SLOT_KIND_RELEASE,
			Release: &keydpb.ReleasePolicy{From: 120, Until: 300, Networks: []string{"10.0.0.0/8", "fd00::/8"}}}
	}
	if err := CheckSlot(good()); err != nil {
		t.Fatal(err)
	}
	for name, change := range map[string]func(*keydpb.Slot){
		"a minute too late":       func(s *keydpb.Slot) { s.Release.Until = minutesOfDay },
		"no network":              func(s *keydpb.Slot) { s.Release.Networks = []string{"ten"} },
		"an address":              func(s *keydpb.Slot) { s.Release.Networks = []string{"10.1.2.3/8"} },
		"many networks":           func(s *keydpb.Slot) { s.Release.Networks = make([]string, maxReleaseNetworks+1) },
		"within a moment":         func(s *keydpb.Slot) { s.Release.Within = 59 },
		"within a month":          func(s *keydpb.Slot) { s.Release.Within = 30 * 24 * 3600 },
		"a recipient":             func(s *keydpb.Slot) { s.Recipient = []byte{1} },
		"a policy of a file slot": func(s *keydpb.Slot) { s.Kind = keydpb.SlotKind_SLOT_KIND_FILE },
	} {
		s := good()
		change(s)
		if CheckSlot(s) == nil {
			t.Errorf("%s is taken", name)
		}
	}
}

func TestRecent(t *testing.T) {
	for _, c := range []struct {
		within uint32
		silent time.Duration
		ok     bool
	}{
		{0, 15 * time.Minute, true},
		{0, 15*time.Minute + 1, false},
		{90, 90 * time.Second, true},
		{90, 91 * time.Second, false},
		{7200, 2 * time.Hour, true},
	} {
		if err := Recent(&keydpb.ReleasePolicy{Within: c.within}, c.silent); (err == nil) != c.ok {
			t.Errorf("within %d s after %v: %v", c.within, c.silent, err)
		}
	}
	for text, p := range map[string]*keydpb.ReleasePolicy{
		"at any time, from anywhere, within 15m of when it was last heard":                nil,
		"02:00-05:00 UTC, from 10.0.0.0/8, fd00::/8, within 1h of when it was last heard": {From: 120, Until: 300, Networks: []string{"10.0.0.0/8", "fd00::/8"}, Within: 3600},
		"at any time, from 192.0.2.0/24, within 1h0m30s of when it was last heard":        {Networks: []string{"192.0.2.0/24"}, Within: 3630},
	} {
		if got := PolicyText(p); got != text {
			t.Errorf("%q, want %q", got, text)
		}
	}
}
