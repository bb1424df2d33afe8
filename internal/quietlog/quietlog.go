// Package quietlog writes down what strangers do without letting them fill the
// log: the first refusals of a source in a minute are lines of their own, the
// rest of that minute is one line with their number. What it remembers is
// bounded; sources beyond that are counted together.
package quietlog

import (
	"log/slog"
	"maps"
	"slices"
	"sync"
	"time"
)

const (
	// perSource lines of one source are written in a minute, and perMinute of
	// all sources.
	perSource = 5
	perMinute = 100
	// maxSources are counted apart in a minute.
	maxSources = 256
	minute     = time.Minute
)

// others stands for the sources beyond maxSources.
const others = "others"

// Log is such a log. It is safe for concurrent use and has no goroutine: a
// minute is summed up when the next refusal comes.
type Log struct {
	log *slog.Logger
	now func() time.Time

	mu     sync.Mutex // guards the rest
	began  time.Time
	lines  int
	counts map[string]*count
}

type count struct{ written, left int }

// New returns a Log that writes to log.
func New(log *slog.Logger) *Log {
	return &Log{log: log, now: time.Now, counts: map[string]*count{}}
}

// Warn writes a refusal of that source, or counts it.
func (l *Log) Warn(source, message string, args ...any) {
	if l.count(source) {
		l.log.Warn(message, append([]any{"source", source}, args...)...)
	}
}

// count reports whether the line is to be written.
func (l *Log) count(source string) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if now := l.now(); now.Sub(l.began) >= minute {
		l.sumUp()
		l.began, l.lines = now, 0
		clear(l.counts)
	}
	c := l.counts[source]
	if c == nil {
		if len(l.counts) >= maxSources {
			source = others
		}
		if c = l.counts[source]; c == nil {
			c = &count{}
			l.counts[source] = c
		}
	}
	if c.written >= perSource || l.lines >= perMinute {
		c.left++
		return false
	}
	c.written++
	l.lines++
	return true
}

// sumUp writes what the last minute did not: the worst sources apart, the others
// together. l.mu is held.
func (l *Log) sumUp() {
	rest, sources := 0, slices.Collect(maps.Keys(l.counts))
	slices.SortFunc(sources, func(a, b string) int { return l.counts[b].left - l.counts[a].left })
	for i, s := range sources {
		left := l.counts[s].left
		switch {
		case left == 0:
		case i < perSource && s != others:
			l.log.Warn("refused more, not written one by one", "source", s, "count", left, "since", l.began)
		default:
			rest += left
		}
	}
	if rest > 0 {
		l.log.Warn("refused more, not written one by one", "source", others, "count", rest, "since", l.began)
	}
}
