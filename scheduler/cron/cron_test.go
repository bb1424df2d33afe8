package cron_test

import (
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/redoubt-cluster/redoubt/scheduler/cron"
)

// list gives the first n due times after a moment, as the zone's wall clock shows them.
func list(t *testing.T, expression, zone, after string, n int) (out []string) {
	t.Helper()
	s, err := cron.Parse(expression, zone)
	if err != nil {
		t.Fatal(err)
	}
	loc, err := cron.Zone(zone)
	if err != nil {
		t.Fatal(err)
	}
	at, err := time.Parse(time.RFC3339, after)
	if err != nil {
		t.Fatal(err)
	}
	for i := range n {
		before := at
		if at = s.Next(at); at.IsZero() {
			return append(out, "never")
		}
		if i > 0 && !s.Last(at.Add(-1)).Equal(before) || !s.Last(at).Equal(at) {
			t.Errorf("the last before %v is %v, want %v", at, s.Last(at.Add(-1)), before)
		}
		out = append(out, at.In(loc).Format("2006-01-02 15:04 -0700"))
	}
	return out
}

func TestNext(t *testing.T) {
	const berlin, howe = "Europe/Berlin", "Australia/Lord_Howe"
	for _, c := range []struct{ name, expression, zone, after, want string }{
		{"each quarter", "*/15 * * * *", "", "2026-01-01T00:14:59Z", "2026-01-01 00:15 +0000, 2026-01-01 00:30 +0000"},
		{"not the moment itself", "30 2 * * *", "", "2026-01-01T02:30:00Z", "2026-01-02 02:30 +0000"},
		{"weekdays", "0 9 * * mon-fri", "", "2026-01-02T09:00:00Z", "2026-01-05 09:00 +0000"},
		{"sunday is 7, too", "0 9 * * 7", "", "2026-01-02T09:00:00Z", "2026-01-04 09:00 +0000"},
		{"a range to sunday", "0 9 * * sat-sun", "", "2026-01-02T09:00:00Z", "2026-01-03 09:00 +0000, 2026-01-04 09:00 +0000, 2026-01-10 09:00 +0000"},
		{"either day", "0 0 13 * fri", "", "2026-02-01T00:00:00Z", "2026-02-06 00:00 +0000, 2026-02-13 00:00 +0000, 2026-02-20 00:00 +0000"},
		{"both where one is a star", "0 0 */2 * fri", "", "2026-02-01T00:00:00Z", "2026-02-13 00:00 +0000, 2026-02-27 00:00 +0000"},
		{"29 February", "0 0 29 2 *", "", "2026-01-01T00:00:00Z", "2028-02-29 00:00 +0000, 2032-02-29 00:00 +0000"},
		{"29 February over a century", "0 0 29 2 *", "", "2096-03-01T00:00:00Z", "2104-02-29 00:00 +0000"},
		{"the 31st", "0 0 31 * *", "", "2026-01-31T00:00:00Z", "2026-03-31 00:00 +0000, 2026-05-31 00:00 +0000"},
		{"a name", "@weekly", "", "2026-01-01T00:00:00Z", "2026-01-04 00:00 +0000"},
		{"lists", "5,10 1,3 * * *", "", "2026-01-01T01:05:00Z", "2026-01-01 01:10 +0000, 2026-01-01 03:05 +0000"},
		{"steps of a range", "10-30/10 4 * * *", "", "2026-01-01T00:00:00Z", "2026-01-01 04:10 +0000, 2026-01-01 04:20 +0000, 2026-01-01 04:30 +0000, 2026-01-02 04:10 +0000"},

		{"02:30 that is not there", "30 2 * * *", berlin, "2026-03-28T12:00:00Z", "2026-03-29 03:00 +0200, 2026-03-30 02:30 +0200"},
		{"several that are not there", "*/20 2 * * *", berlin, "2026-03-28T12:00:00Z", "2026-03-29 03:00 +0200, 2026-03-30 02:00 +0200"},
		{"and what is there anyhow", "0 2,3 * * *", berlin, "2026-03-28T12:00:00Z", "2026-03-29 03:00 +0200, 2026-03-30 02:00 +0200"},
		{"each hour over the gap", "30 * * * *", berlin, "2026-03-29T00:00:00Z", "2026-03-29 01:30 +0100, 2026-03-29 03:30 +0200"},
		{"02:30 twice", "30 2 * * *", berlin, "2026-10-24T12:00:00Z", "2026-10-25 02:30 +0200, 2026-10-26 02:30 +0100"},
		{"each hour over the fold", "30 * * * *", berlin, "2026-10-24T23:45:00Z", "2026-10-25 02:30 +0200, 2026-10-25 02:30 +0100, 2026-10-25 03:30 +0100"},
		{"half an hour's gap", "15 2 * * *", howe, "2026-10-03T00:00:00Z", "2026-10-04 02:30 +1100, 2026-10-05 02:15 +1100"},
		{"half an hour's fold", "45 1 * * *", howe, "2026-04-03T20:00:00Z", "2026-04-05 01:45 +1100, 2026-04-06 01:45 +1030"},
		{"each hour over half an hour's fold", "45 * * * *", howe, "2026-04-04T14:15:00Z", "2026-04-05 01:45 +1100, 2026-04-05 01:45 +1030, 2026-04-05 02:45 +1030"},
		{"midnight that is not there", "0 0 * * *", "America/Sao_Paulo", "2018-11-03T12:00:00Z", "2018-11-04 01:00 -0200, 2018-11-05 00:00 -0200"},
		{"a day that is not there", "0 12 30 12 *", "Pacific/Apia", "2011-12-01T00:00:00Z", "2011-12-31 00:00 +1400, 2012-12-30 12:00 +1400"},
		{"each hour over a fold over midnight", "0,30 * * * *", "America/St_Johns", "2009-11-01T01:45:00Z", "2009-10-31 23:30 -0230, 2009-11-01 00:00 -0230, 2009-10-31 23:30 -0330, 2009-11-01 00:00 -0330"},
		{"a fold over midnight", "30 23 * * *", "America/St_Johns", "2009-10-31T12:00:00Z", "2009-10-31 23:30 -0230, 2009-11-01 23:30 -0330"},
	} {
		t.Run(c.name, func(t *testing.T) {
			n := strings.Count(c.want, ",") + 1
			if got := strings.Join(list(t, c.expression, c.zone, c.after, n), ", "); got != c.want {
				t.Errorf("%s in %q after %s:\n is   %s\n want %s", c.expression, c.zone, c.after, got, c.want)
			}
		})
	}
}

func TestBadExpressions(t *testing.T) {
	for expression, want := range map[string]string{
		"":                                "the schedule is empty",
		"* * * *":                         "has 4 fields: use five",
		"0 30 2 * * *":                    "has 6 fields: use five, without seconds",
		"60 * * * *":                      `minute "60": use 0 to 59`,
		"* 24 * * *":                      `hour "24": use 0 to 23`,
		"0 0 0 * *":                       `day of month "0": use 1 to 31`,
		"0 0 32 * *":                      `day of month "32"`,
		"0 0 * 13 *":                      `month "13": use 1 to 12 or jan to dec`,
		"0 0 * * 8":                       `day of week "8": use 0 to 7 or sun to sat`,
		"0 0 * * funday":                  `day of week "funday"`,
		"*/0 * * * *":                     "the step after / is 1 to 59",
		"*/x * * * *":                     "the step after / is 1 to 59",
		"5/10 * * * *":                    "write 5-59/10",
		"0 22-2 * * *":                    "runs backwards: write 22-23,0-2",
		"0 1,,2 * * *":                    `hour ""`,
		"-5 * * * *":                      `minute "-5"`,
		"+5 * * * *":                      `minute "+5"`,
		"0 0 L * *":                       `day of month "l"`,
		"0 0 30 2 *":                      "would never run",
		"0 0 31 4,6,9,11 *":               "would never run",
		"@reboot":                         "is unknown: use @hourly",
		"@every 5m":                       `as in "*/15 * * * *"`,
		"TZ=UTC 0 0 * * *":                "use --time-zone",
		"CRON_TZ=UTC 0 0 * *":             "use --time-zone",
		strings.Repeat("0,", 200) + "0 *": "at most 256 are allowed",
	} {
		_, err := cron.Parse(expression, "")
		if err == nil || !strings.Contains(err.Error(), want) || strings.Contains(err.Error(), "\n") {
			t.Errorf("%q gives %v, want %s", expression, err, want)
		}
	}
	for _, zone := range []string{"Local", "local", "Mars/Olympus", "../etc/passwd", "/etc/localtime", strings.Repeat("x", 65)} {
		if _, err := cron.Parse("@daily", zone); err == nil || !strings.Contains(err.Error(), "use a name as Europe/Berlin") {
			t.Errorf("zone %q gives %v", zone, err)
		}
	}
}

var zones = []string{"UTC", "Europe/Berlin", "America/St_Johns", "Australia/Lord_Howe", "Pacific/Apia", "America/Sao_Paulo", "Africa/Casablanca", "Asia/Kathmandu", "Europe/Dublin"}

// TestWhatIsDue holds Next against the wall clock, minute by minute, and Last and Passed
// against Next.
func TestWhatIsDue(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		zone := rapid.SampledFrom(zones).Draw(t, "zone")
		minute := rapid.SampledFrom([]string{"0", "30", "*/7", "15,45", "*"}).Draw(t, "minute")
		hour := rapid.SampledFrom([]string{"*", "2", "0", "1-3", "*/2", "23"}).Draw(t, "hour")
		s, err := cron.Parse(minute+" "+hour+" * * *", zone)
		if err != nil {
			t.Fatal(err)
		}
		loc, _ := cron.Zone(zone)
		from := time.Date(2011, 1, 1, 0, 0, 0, 0, time.UTC).Add(time.Duration(rapid.Int64Range(0, 20*365*24*60).Draw(t, "minutes")) * time.Minute)
		if rapid.Bool().Draw(t, "at a change") {
			if _, end := from.In(loc).ZoneBounds(); !end.IsZero() {
				from = end.Add(-time.Duration(rapid.Int64Range(0, 300).Draw(t, "before")) * time.Minute).Truncate(time.Minute).UTC()
			}
		}
		in := func(set string, v, last int) bool {
			switch set {
			case "*":
				return true
			case "*/7":
				return v%7 == 0
			case "*/2":
				return v%2 == 0
			case "15,45":
				return v == 15 || v == 45
			case "1-3":
				return v >= 1 && v <= 3
			}
			return set == time.Date(0, 1, 1, 0, v, 0, 0, time.UTC).Format("4") || set == time.Date(0, 1, 1, 0, v, 0, 0, time.UTC).Format("04") && set != "0"
		}
		next, before, n := s.Next(from), time.Time{}, 0
		for at := from.Add(time.Minute); at.Before(from.Add(26 * time.Hour)); at = at.Add(time.Minute) {
			wall := at.In(loc)
			shows := in(minute, wall.Minute(), 59) && in(hour, wall.Hour(), 23)
			switch isDue := at.Equal(next); {
			case isDue && !shows: // it makes up for what was left out
				if _, was := at.Add(-time.Minute).In(loc).Zone(); hour == "*" || !jumps(was, wall) {
					t.Fatalf("%s %s in %s: due at %v", minute, hour, zone, wall)
				}
			case !isDue && shows && (hour == "*" || first(loc, wall)):
				t.Fatalf("%s %s in %s: not due at %v but at %v", minute, hour, zone, wall, next)
			}
			if at.Equal(next) {
				if n++; n > 1 && !s.Last(at.Add(-time.Second)).Equal(before) || !s.Last(at).Equal(at) {
					t.Fatalf("the last before %v is %v, want %v", at, s.Last(at.Add(-time.Second)), before)
				}
				before, next = at, s.Next(at)
			}
		}
		if got := s.Passed(s.Next(from), before); n > 0 && got != min(n, cron.MaxPassed) {
			t.Fatalf("%d passed, want %d", got, n)
		}
	})
}

// jumps reports whether the clock was put forward to the moment that it shows.
func jumps(was int, wall time.Time) bool { _, is := wall.Zone(); return is > was }

// first reports whether the clock shows that for the first time.
func first(loc *time.Location, wall time.Time) bool {
	start, _ := wall.ZoneBounds()
	if start.IsZero() {
		return true
	}
	_, before := start.Add(-time.Second).In(loc).Zone()
	_, is := wall.Zone()
	return wall.Add(time.Duration(is-before)*time.Second).Sub(start) >= 0 || before <= is
}

func FuzzParse(f *testing.F) {
	for _, s := range []string{"* * * * *", "*/5 1-3 1,15 jan-mar mon", "@daily", "0 0 29 2 *", "59 23 31 12 7"} {
		f.Add(s, "UTC")
		f.Add(s, "Europe/Berlin")
	}
	now := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	f.Fuzz(func(t *testing.T, expression, zone string) {
		s, err := cron.Parse(expression, zone)
		if err != nil {
			if strings.ContainsAny(err.Error(), "\n\r") {
				t.Errorf("%q", err)
			}
			return
		}
		again, err := cron.Parse(cron.Canonical(expression), zone)
		if err != nil {
			t.Fatal(err)
		}
		next := s.Next(now)
		if next.IsZero() || !next.After(now) || !next.Equal(next.Truncate(time.Minute)) || !again.Next(now).Equal(next) {
			t.Errorf("%q in %q: %v", expression, zone, next)
		}
	})
}
