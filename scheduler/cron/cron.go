// Package cron reads the expressions by which jobs run on a schedule, and says
// when they are due.
//
// It owns the grammar (the five fields of crontab(5), and its names for common
// ones) and what an expression means where clocks are changed. It refuses to
// wait or to run anything: a Schedule is a value, and all time comes from the
// caller. What it does not know it refuses, each refusal in one line that says
// what to write instead.
//
// A due time is a whole minute of the wall clock of a time zone. On the days on
// which that clock is changed:
//
//   - an expression for every hour follows time as it passes: minutes that are
//     left out are left out, and those that come twice are due twice;
//   - one that names hours is due once for each time it names: where that is left
//     out, at the moment at which the clock is put forward, and where it comes
//     twice, the first time. Several that are left out are due once together.
//
// Zones are those that Go knows: a machine's own data, else what is built in.
package cron

import (
	"fmt"
	"math/bits"
	"strconv"
	"strings"
	"time"
	_ "time/tzdata" // a node need not have any, and may not be able to read it
)

const (
	// MaxExpression and MaxZone bound the text of an expression and of a zone.
	MaxExpression = 256
	MaxZone       = 64

	// horizon is how many days ahead, and back, a due time is looked for: eight years
	// may lie between two 29ths of February.
	horizon = 9 * 366
)

// Schedule says when something is due. It is not changed once it is made.
type Schedule struct {
	minutes, hours, days, months, weekdays uint64
	// anyDay, anyWeekday: the field began with a star. Where neither did, a day needs
	// to be of one of the two only.
	anyDay, anyWeekday bool
	zone               *time.Location
}

// field is one of an expression.
type field struct {
	name        string
	first, last int
	names       []string // of first, first+1, …
}

var fields = [5]field{
	{name: "minute", last: 59},
	{name: "hour", last: 23},
	{name: "day of month", first: 1, last: 31},
	{name: "month", first: 1, last: 12, names: []string{"jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec"}},
	{name: "day of week", last: 7, names: []string{"sun", "mon", "tue", "wed", "thu", "fri", "sat"}},
}

var macros = map[string]string{
	"@yearly": "0 0 1 1 *", "@annually": "0 0 1 1 *", "@monthly": "0 0 1 * *", "@weekly": "0 0 * * 0",
	"@daily": "0 0 * * *", "@midnight": "0 0 * * *", "@hourly": "0 * * * *",
}

// Canonical is the expression with one space between its fields, in lower case.
func Canonical(expression string) string {
	return strings.ToLower(strings.Join(strings.Fields(expression), " "))
}

// Parse reads an expression for a time zone ("Europe/Berlin"; empty: UTC).
func Parse(expression, zone string) (*Schedule, error) {
	s := &Schedule{}
	var err error
	if s.zone, err = Zone(zone); err != nil {
		return nil, err
	}
	if len(expression) > MaxExpression {
		return nil, fmt.Errorf("the schedule is %d bytes long: at most %d are allowed", len(expression), MaxExpression)
	}
	text := Canonical(expression)
	if m, ok := macros[text]; ok {
		text = m
	}
	parts := strings.Fields(text)
	if err := shape(text, parts); err != nil {
		return nil, err
	}
	for i, into := range []*uint64{&s.minutes, &s.hours, &s.days, &s.months, &s.weekdays} {
		if *into, err = fields[i].parse(parts[i]); err != nil {
			return nil, fmt.Errorf("schedule %q: %w", expression, err)
		}
	}
	if s.weekdays&(1<<7) != 0 { // Sunday, too
		s.weekdays = s.weekdays&^(1<<7) | 1
	}
	s.anyDay, s.anyWeekday = parts[2][0] == '*', parts[4][0] == '*'
	if !s.comes() {
		return nil, fmt.Errorf("schedule %q: none of its months has such a day: it would never run", expression)
	}
	return s, nil
}

// shape refuses what has not five fields, and says what there is in its place.
func shape(text string, parts []string) error {
	switch {
	case len(parts) == 5 && !strings.Contains(parts[0], "="):
		return nil
	case text == "":
		return fmt.Errorf("the schedule is empty: use minute, hour, day of month, month and day of week, as in \"30 2 * * *\"")
	case strings.HasPrefix(text, "tz=") || strings.HasPrefix(text, "cron_tz="):
		return fmt.Errorf("schedule %q: its time zone is given by itself: use --time-zone", text)
	case strings.HasPrefix(text, "@every"):
		return fmt.Errorf("schedule %q: write which minutes, as in \"*/15 * * * *\"", text)
	case text[0] == '@':
		return fmt.Errorf("schedule %q is unknown: use @hourly, @daily, @weekly, @monthly, @yearly or five fields", text)
	case len(parts) == 6 || len(parts) == 7:
		return fmt.Errorf("schedule %q has %d fields: use five, without seconds or years: at most one run a minute is begun", text, len(parts))
	}
	return fmt.Errorf("schedule %q has %d fields: use five: minute, hour, day of month, month and day of week, as in \"30 2 * * *\"", text, len(parts))
}

// parse gives the set of values of one field.
func (f field) parse(text string) (set uint64, err error) {
	for _, part := range strings.Split(text, ",") {
		from, to, step, err := f.span(part)
		if err != nil {
			return 0, err
		}
		for v := from; v <= to; v += step {
			set |= 1 << v
		}
	}
	return set, nil
}

// span reads "*", "5", "1-5", "*/10" or "1-30/10".
func (f field) span(part string) (from, to, step int, err error) {
	body, by, stepped := strings.Cut(part, "/")
	step = 1
	if stepped {
		if step, err = number(by); err != nil || step < 1 || step > f.last {
			return 0, 0, 0, fmt.Errorf("%s %q: the step after / is 1 to %d", f.name, part, f.last)
		}
	}
	if body == "*" {
		return f.first, f.last, step, nil
	}
	low, high, ranged := strings.Cut(body, "-")
	if from, err = f.value(low, part); err != nil {
		return 0, 0, 0, err
	}
	switch {
	case ranged:
		if to, err = f.value(high, part); err != nil {
			return 0, 0, 0, err
		}
	case stepped:
		return 0, 0, 0, fmt.Errorf("%s %q: a step is of * or of a range: write %s-%d/%s", f.name, part, low, f.last, by)
	default:
		to = from
	}
	if to == 0 && from > 0 && f.last == 7 {
		to = 7 // fri-sun
	}
	if to < from {
		return 0, 0, 0, fmt.Errorf("%s %q runs backwards: write %s-%d,%d-%s", f.name, part, low, f.last, f.first, high)
	}
	return from, to, step, nil
}

func (f field) value(text, part string) (int, error) {
	for i, name := range f.names {
		if text == name {
			return f.first + i, nil
		}
	}
	n, err := number(text)
	if err == nil && n >= f.first && n <= f.last {
		return n, nil
	}
	also := ""
	if len(f.names) > 0 {
		also = fmt.Sprintf(" or %s to %s", f.names[0], f.names[len(f.names)-1])
	}
	return 0, fmt.Errorf("%s %q: use %d to %d%s, *, lists with commas, ranges as 1-5 and steps as */5", f.name, part, f.first, f.last, also)
}

// number takes digits alone, two at most.
func number(text string) (int, error) {
	if len(text) == 0 || len(text) > 2 || strings.Trim(text, "0123456789") != "" {
		return 0, strconv.ErrSyntax
	}
	return strconv.Atoi(text)
}

// comes reports whether there is such a day at all.
func (s *Schedule) comes() bool {
	if !s.anyWeekday && !s.anyDay || s.anyDay {
		return true // a weekday is in every month
	}
	for m, n := range []int{31, 29, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31} {
		if s.months&(1<<(m+1)) != 0 && bits.TrailingZeros64(s.days) <= n {
			return true
		}
	}
	return false
}

// Zone finds a time zone; empty is UTC.
func Zone(name string) (*time.Location, error) {
	if name == "" {
		return time.UTC, nil
	}
	if len(name) > MaxZone || strings.EqualFold(name, "local") {
		return nil, fmt.Errorf("time zone %.64q: use a name as Europe/Berlin, or UTC", name)
	}
	loc, err := time.LoadLocation(name)
	if err != nil {
		return nil, fmt.Errorf("time zone %q is unknown: use a name as Europe/Berlin, or UTC", name)
	}
	return loc, nil
}
