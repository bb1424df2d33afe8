package autolock

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/redoubt-cluster/redoubt/autolock/keyd/keydpb"
)

// ReleaseSlot is the slot by which managers release each other, or nil.
func ReleaseSlot(s *keydpb.SlotSet) *keydpb.Slot {
	for _, slot := range s.GetSlots() {
		if slot.GetKind() == keydpb.SlotKind_SLOT_KIND_RELEASE {
			return slot
		}
	}
	return nil
}

const minutesOfDay = 24 * 60

// checkRelease returns an error where a slot's policy is malformed, or is one of a
// slot that has none.
func checkRelease(slot *keydpb.Slot) error {
	p := slot.GetRelease()
	if slot.GetKind() != keydpb.SlotKind_SLOT_KIND_RELEASE {
		if p != nil {
			return errors.New("a policy for releases is of slots of that kind")
		}
		return nil
	}
	switch {
	case p.GetFrom() >= minutesOfDay || p.GetUntil() >= minutesOfDay:
		return errors.New("a window begins and ends within a day")
	case len(p.GetNetworks()) > maxReleaseNetworks:
		return fmt.Errorf("more than %d networks", maxReleaseNetworks)
	case Within(p) < minWithin || Within(p) > maxWithin:
		return fmt.Errorf("managers are released within %s to %s of when they were last heard, not within %s", short(minWithin), short(maxWithin), short(Within(p)))
	}
	for _, n := range p.GetNetworks() {
		if prefix, err := netip.ParsePrefix(n); err != nil || prefix.Masked().String() != n {
			return fmt.Errorf("%q is no network in CIDR form", n)
		}
	}
	return nil
}

// ParseWindow reads "02:00-05:00" into minutes of the day; empty is all day.
func ParseWindow(text string) (from, until uint32, err error) {
	if text == "" {
		return 0, 0, nil
	}
	a, b, ok := strings.Cut(text, "-")
	begin, err1 := time.Parse("15:04", a)
	end, err2 := time.Parse("15:04", b)
	if !ok || err1 != nil || err2 != nil || begin.Equal(end) {
		return 0, 0, fmt.Errorf("a window is two times of day in UTC, as in 02:00-05:00, not %q", text)
	}
	minute := func(t time.Time) uint32 { return uint32(t.Hour()*60 + t.Minute()) }
	return minute(begin), minute(end), nil
}

// Window is a policy's window as ParseWindow reads it.
func Window(p *keydpb.ReleasePolicy) string {
	if p.GetFrom() == p.GetUntil() {
		return ""
	}
	clock := func(m uint32) string { return fmt.Sprintf("%02d:%02d", m/60, m%60) }
	return clock(p.GetFrom()) + "-" + clock(p.GetUntil())
}

// Within is how long after it was last heard a policy releases a manager.
func Within(p *keydpb.ReleasePolicy) time.Duration {
	if p.GetWithin() == 0 {
		return DefaultWithin
	}
	return time.Duration(p.GetWithin()) * time.Second
}

// PolicyText is a policy in words.
func PolicyText(p *keydpb.ReleasePolicy) string {
	when, where := "at any time", "from anywhere"
	if w := Window(p); w != "" {
		when = w + " UTC"
	}
	if len(p.GetNetworks()) > 0 {
		where = "from " + strings.Join(p.GetNetworks(), ", ")
	}
	return when + ", " + where + ", within " + short(Within(p)) + " of when it was last heard"
}

// short writes a duration without the units that are zero.
func short(d time.Duration) string {
	text := d.String()
	for _, zero := range []string{"m0s", "h0m"} {
		if strings.HasSuffix(text, zero) {
			text = strings.TrimSuffix(text, zero[1:])
		}
	}
	return text
}

// Recent returns why a policy refuses a manager that was not heard for so long.
func Recent(p *keydpb.ReleasePolicy, silent time.Duration) error {
	if limit := Within(p); silent > limit {
		return fmt.Errorf("it was not heard for %s, and managers are released within %s", short(silent.Round(time.Second)), short(limit))
	}
	return nil
}

// MayRelease returns why a policy refuses a manager at from, at that moment.
func MayRelease(p *keydpb.ReleasePolicy, from netip.Addr, now time.Time) error {
	now = now.UTC()
	minute := uint32(now.Hour()*60 + now.Minute())
	begin, end := p.GetFrom(), p.GetUntil()
	open := begin <= minute && minute < end
	if begin > end { // over midnight
		open = minute >= begin || minute < end
	}
	if begin != end && !open {
		return fmt.Errorf("it is %s UTC, and managers are released %s", now.Format("15:04"), Window(p))
	}
	in := func(n string) bool {
		prefix, err := netip.ParsePrefix(n)
		return err == nil && prefix.Contains(from.Unmap().WithZone(""))
	}
	if len(p.GetNetworks()) > 0 && !slices.ContainsFunc(p.GetNetworks(), in) {
		return fmt.Errorf("%s is in none of the networks that managers are released in (%s)", from, strings.Join(p.GetNetworks(), ", "))
	}
	return nil
}
