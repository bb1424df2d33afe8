package health

import (
	"errors"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/redoubt-cluster/redoubt/scheduler/taskpb"
)

func TestEffective(t *testing.T) {
	image := &taskpb.Healthcheck{Test: []string{"CMD-SHELL", "wget -q localhost"}, IntervalNs: int64(7 * time.Second), Retries: 5}
	for _, c := range []struct {
		name           string
		service, image *taskpb.Healthcheck
		args           []string
		interval       time.Duration
		retries        int
	}{
		{"none at all", nil, nil, nil, 0, 0},
		{"the image's", nil, image, []string{"/bin/sh", "-c", "wget -q localhost"}, 7 * time.Second, 5},
		{"switched off", &taskpb.Healthcheck{Test: []string{"NONE"}}, image, nil, 0, 0},
		{"the image's at another pace", &taskpb.Healthcheck{IntervalNs: int64(time.Minute)}, image, []string{"/bin/sh", "-c", "wget -q localhost"}, time.Minute, 5},
		{"numbers without a command", &taskpb.Healthcheck{IntervalNs: 1}, nil, nil, 0, 0},
		{"the service's", &taskpb.Healthcheck{Test: []string{"CMD", "/check", "a b"}, Retries: 1}, nil, []string{"/check", "a b"}, DefaultInterval, 1},
		{"too fast", nil, &taskpb.Healthcheck{Test: []string{"CMD", "x"}, IntervalNs: 1}, []string{"x"}, MinInterval, DefaultRetries},
		{"too slow", nil, &taskpb.Healthcheck{Test: []string{"CMD", "x"}, IntervalNs: 1 << 62, Retries: 1 << 31}, []string{"x"}, MaxDuration, MaxRetries},
	} {
		p, err := Effective(c.service, c.image)
		if err != nil {
			t.Errorf("%s: %v", c.name, err)
			continue
		}
		if (p == nil) != (c.args == nil) || p != nil && (!slices.Equal(p.Args, c.args) || p.Interval != c.interval || p.Retries != c.retries) {
			t.Errorf("%s: %+v", c.name, p)
		}
		if p == nil {
			continue
		}
		if again, err := Effective(p.Proto(), nil); err != nil || !reflect.DeepEqual(p, again) {
			t.Errorf("%s: written out and read again: %+v, %v", c.name, again, err)
		}
	}
	for _, bad := range [][]string{{"CMD"}, {"CMD", ""}, {"CMD-SHELL"}, {"CMD-SHELL", "a", "b"}, {"cmd", "x"}, {""}} {
		if p, err := Effective(&taskpb.Healthcheck{Test: bad}, nil); err == nil {
			t.Errorf("%q: %+v, want an error", bad, p)
		}
	}
}

var (
	good    = Result{}
	bad     = Result{Code: 1, Output: "connection refused"}
	begin   = time.Unix(1000, 0)
	second3 = &Policy{Args: []string{"x"}, Interval: 10 * time.Second, Timeout: time.Second, StartInterval: 2 * time.Second, Retries: 3}
)

func TestFailuresInARow(t *testing.T) {
	r := NewRecord(second3, begin, false)
	at := func(sec int, res Result, want Status) {
		t.Helper()
		r.Take(begin.Add(time.Duration(sec)*time.Second), res)
		if s, _ := r.Status(); s != want {
			t.Fatalf("after the check at %d s: %v, want %v", sec, s, want)
		}
	}
	for sec := range 10 { // Docker would not have looked yet
		at(sec, bad, Starting)
	}
	at(10, bad, Starting)
	at(20, bad, Starting)
	at(25, good, Healthy)
	at(30, bad, Healthy)
	at(40, Result{TimedOut: true}, Healthy)
	at(45, good, Healthy)
	at(50, bad, Healthy)
	at(60, Result{Err: errors.New("no such file")}, Healthy)
	at(70, bad, Unhealthy)
	at(80, good, Unhealthy) // final
	if _, m := r.Status(); m != "unhealthy: exit code 1: connection refused (3 healthchecks failed in a row)" {
		t.Error(m)
	}
}

func TestStartPeriod(t *testing.T) {
	p := *second3
	p.StartPeriod = time.Minute
	r := NewRecord(&p, begin, false)
	if d := r.Delay(begin); d != 2*time.Second {
		t.Errorf("delay %v", d)
	}
	for sec := range 60 {
		r.Take(begin.Add(time.Duration(sec)*time.Second), bad)
	}
	if s, m := r.Status(); s != Starting || !strings.Contains(m, "connection refused") {
		t.Errorf("%v %q", s, m)
	}
	if d := r.Delay(begin.Add(time.Minute)); d != 10*time.Second {
		t.Errorf("delay after it %v", d)
	}
	// One success ends it early: from then on failures count.
	r = NewRecord(&p, begin, false)
	r.Take(begin, good)
	for range 3 {
		r.Take(begin.Add(time.Second), bad)
	}
	if s, _ := r.Status(); s != Unhealthy {
		t.Error(s)
	}
}

// TestAgainstModel: unhealthy exactly when the last n counted results failed.
func TestAgainstModel(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		p := &Policy{Interval: 10 * time.Second, StartInterval: time.Second,
			StartPeriod: time.Duration(rapid.IntRange(0, 40).Draw(t, "period")) * time.Second, Retries: rapid.IntRange(1, 4).Draw(t, "retries")}
		r := NewRecord(p, begin, false)
		seen, row, dead := false, 0, false
		for at := begin; at.Before(begin.Add(5 * time.Minute)); at = at.Add(r.Delay(at)) {
			ok := rapid.Bool().Draw(t, "ok")
			res := bad
			if ok {
				res = good
			}
			r.Take(at, res)
			switch {
			case dead:
			case ok:
				seen, row = true, 0
			case seen || at.Sub(begin) >= max(p.StartPeriod, p.Interval):
				row++
				dead = row >= p.Retries
			}
			want := Starting
			if dead {
				want = Unhealthy
			} else if seen {
				want = Healthy
			}
			if s, _ := r.Status(); s != want {
				t.Fatalf("at %v: %v, want %v", at.Sub(begin), s, want)
			}
		}
	})
}
