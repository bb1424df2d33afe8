package cron

import (
	"slices"
	"time"
)

// MaxPassed is how far Passed counts: a week of minutes.
const MaxPassed = 10_080

// Next is the first due time after t, in UTC; zero: there is none within nine
// years.
func (s *Schedule) Next(t time.Time) time.Time { return s.walk().next(t) }

// Last is the last due time that is not after t, in UTC; zero: there was none
// within nine years.
func (s *Schedule) Last(t time.Time) time.Time {
	w := s.walk()
	today := s.date(t)
	for d := today + 1; d > today-horizon; d-- {
		found := w.upTo(d, t)
		if found.IsZero() {
			continue
		}
		for _, of := range []int{d - 1, d - 2} { // what was left out is due on a later day
			if _, latest := w.span(of); latest.After(found) {
				if other := w.upTo(of, t); other.After(found) {
					found = other
				}
			}
		}
		return found
	}
	return time.Time{}
}

// Passed counts the due times from first, which is one, to now, up to MaxPassed.
func (s *Schedule) Passed(first, now time.Time) (n int) {
	w := s.walk()
	for at := first; !at.IsZero() && !at.After(now) && n < MaxPassed; at = w.next(at) {
		n++
	}
	return n
}

// walk goes from day to day, and remembers the due times of each.
type walk struct {
	*Schedule
	days map[int][]time.Time
}

func (s *Schedule) walk() *walk { return &walk{s, map[int][]time.Time{}} }

func (w *walk) next(t time.Time) time.Time {
	today := w.date(t)
	for d := today - 2; d < today+horizon; d++ { // as of Last
		found := w.after(d, t)
		if found.IsZero() {
			continue
		}
		if other := w.after(d+1, t); !other.IsZero() && other.Before(found) {
			return other // a clock put back past midnight mixes two days
		}
		return found
	}
	return time.Time{}
}

// after is the first due time of a day that is after t; zero: there is none.
func (w *walk) after(d int, t time.Time) time.Time {
	if _, latest := w.span(d); latest.Before(t) {
		return time.Time{}
	}
	for _, at := range w.day(d) {
		if at.After(t) {
			return at
		}
	}
	return time.Time{}
}

// upTo is the last due time of a day that is not after t; zero: there is none.
func (w *walk) upTo(d int, t time.Time) (found time.Time) {
	if earliest, _ := w.span(d); earliest.After(t) {
		return found
	}
	for _, at := range w.day(d) {
		if at.After(t) {
			break
		}
		found = at
	}
	return found
}

const daySeconds = 24 * 60 * 60

// midnight is when a day begins, as if the wall clock's zone were UTC.
func midnight(d int) time.Time { return time.Unix(int64(d)*daySeconds, 0).UTC() }

// span is between when all of a day's due times lie.
func (s *Schedule) span(d int) (earliest, latest time.Time) {
	offsets := s.offsets(midnight(d))
	return midnight(d).Add(-slices.Max(offsets)), midnight(d + 1).Add(-slices.Min(offsets))
}

// date numbers the day that the wall clock shows.
func (s *Schedule) date(t time.Time) int {
	_, offset := t.In(s.zone).Zone()
	n := t.Unix() + int64(offset)
	if n < 0 {
		n -= daySeconds - 1
	}
	return int(n / daySeconds)
}

// day gives the due times of a day, ascending.
func (w *walk) day(d int) []time.Time {
	if at, ok := w.days[d]; ok {
		return at
	}
	var out []time.Time
	if begin := midnight(d); w.on(begin) {
		offsets := w.offsets(begin)
		for h := range 24 {
			for m := range 60 {
				if w.hours&(1<<h) != 0 && w.minutes&(1<<m) != 0 {
					shown := begin.Add(time.Duration(h)*time.Hour + time.Duration(m)*time.Minute)
					out = w.instants(out, shown, offsets)
				}
			}
		}
		slices.SortFunc(out, time.Time.Compare)
		out = slices.CompactFunc(out, time.Time.Equal)
	}
	w.days[d] = out
	return out
}

// on reports whether the schedule has that day.
func (s *Schedule) on(day time.Time) bool {
	if s.months&(1<<day.Month()) == 0 {
		return false
	}
	ofMonth, ofWeek := s.days&(1<<day.Day()) != 0, s.weekdays&(1<<day.Weekday()) != 0
	if s.anyDay || s.anyWeekday {
		return ofMonth && ofWeek
	}
	return ofMonth || ofWeek
}

// offsets are those of the zone around a day, in the order in which they come.
func (s *Schedule) offsets(begin time.Time) (out []time.Duration) {
	end := begin.Add(60 * time.Hour)
	for at := begin.Add(-36 * time.Hour).In(s.zone); at.Before(end); {
		_, seconds := at.Zone()
		out = append(out, time.Duration(seconds)*time.Second)
		_, until := at.ZoneBounds()
		if until.IsZero() {
			break
		}
		at = until
	}
	return out
}

// instants adds when the wall clock shows that, as the essay of the package says.
func (s *Schedule) instants(out []time.Time, shown time.Time, offsets []time.Duration) []time.Time {
	const everyHour = 1<<24 - 1
	found := false
	for _, o := range offsets {
		at := shown.Add(-o)
		if _, is := at.In(s.zone).Zone(); time.Duration(is)*time.Second != o {
			continue
		}
		if found && s.hours != everyHour {
			break
		}
		out, found = append(out, at), true
	}
	if found || s.hours == everyHour {
		return out
	}
	// It is left out: by the clock before that, the moment lies after the change.
	for _, o := range offsets {
		at := shown.Add(-o)
		if _, is := at.In(s.zone).Zone(); time.Duration(is)*time.Second > o {
			start, _ := at.In(s.zone).ZoneBounds()
			return append(out, start.UTC())
		}
	}
	return out
}
