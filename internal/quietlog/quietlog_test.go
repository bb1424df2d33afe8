package quietlog

import (
	"bytes"
	"fmt"
	"log/slog"
	"strings"
	"testing"
	"time"
)

// TestFlood: ten thousand refusals of as many sources, and of one, are about a
// hundred lines a minute; none is lost from the sum.
func TestFlood(t *testing.T) {
	var out bytes.Buffer
	l := New(slog.New(slog.NewTextHandler(&out, nil)))
	now := time.Unix(1000, 0)
	l.now = func() time.Time { return now }
	for i := range 10000 {
		l.Warn(fmt.Sprintf("192.0.2.%d", i), "refused")
		l.Warn("198.51.100.1", "refused")
	}
	if n := strings.Count(out.String(), "\n"); n != perMinute {
		t.Errorf("%d lines in the first minute, want %d", n, perMinute)
	}
	if len(l.counts) > maxSources+1 {
		t.Errorf("%d sources are remembered", len(l.counts))
	}
	out.Reset()
	now = now.Add(minute)
	l.Warn("192.0.2.7", "refused")
	sum, lines := 0, strings.Split(strings.TrimSpace(out.String()), "\n")
	for _, line := range lines[:len(lines)-1] {
		var n int
		if _, after, ok := strings.Cut(line, "count="); ok {
			fmt.Sscan(after, &n)
		}
		sum += n
	}
	if sum != 20000-perMinute || len(lines) > perSource+2 {
		t.Errorf("%d are summed up in %d lines:\n%s", sum, len(lines), out.String())
	}
	if !strings.Contains(out.String(), "source=198.51.100.1 count=9995") {
		t.Errorf("the worst source is not named:\n%s", out.String())
	}
}
