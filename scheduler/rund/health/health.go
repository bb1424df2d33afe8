// Package health decides what a task's healthchecks mean: when the next one is
// due and what a container is after each, as users of Docker know it. It runs
// nothing and has no clock; rund does the checks and hands their results in.
//
// A container begins as starting. The first success makes it healthy, Retries
// failures in a row unhealthy, which is final: the task is then replaced. What
// fails within the start period does not count. Nor does it within the first
// interval, in which Docker does not look at all: here it is looked at every
// start interval from the beginning, so that a container that works is known to
// work after seconds and not after half a minute.
package health

import (
	"fmt"
	"time"

	"github.com/redoubt-cluster/redoubt/scheduler/taskpb"
)

// Defaults and bounds. Images may say what they like; what is out of bounds is
// moved to the bound.
const (
	DefaultInterval      = 30 * time.Second
	DefaultTimeout       = 30 * time.Second
	DefaultStartInterval = 5 * time.Second
	DefaultRetries       = 3

	MinInterval = time.Second
	MinTimeout  = 100 * time.Millisecond
	MaxDuration = time.Hour
	MaxStart    = 24 * time.Hour
	MaxRetries  = 1000
)

// Policy is a check with every number decided.
type Policy struct {
	// Args is the program and its arguments inside the container.
	Args []string

	Interval, Timeout, StartPeriod, StartInterval time.Duration
	Retries                                       int
}

// Effective puts a service's wishes over its image's check; nil: there is none.
func Effective(service, image *taskpb.Healthcheck) (*Policy, error) {
	test := service.GetTest()
	if len(test) == 0 {
		test = image.GetTest()
	}
	if len(test) == 0 {
		return nil, nil
	}
	p := &Policy{
		Interval:      bounded(MinInterval, MaxDuration, DefaultInterval, service.GetIntervalNs(), image.GetIntervalNs()),
		Timeout:       bounded(MinTimeout, MaxDuration, DefaultTimeout, service.GetTimeoutNs(), image.GetTimeoutNs()),
		StartPeriod:   bounded(0, MaxStart, 0, service.GetStartPeriodNs(), image.GetStartPeriodNs()),
		StartInterval: bounded(MinInterval, MaxDuration, DefaultStartInterval, service.GetStartIntervalNs(), image.GetStartIntervalNs()),
		Retries:       DefaultRetries,
	}
	for _, n := range []uint32{service.GetRetries(), image.GetRetries()} {
		if n > 0 {
			p.Retries = int(min(n, MaxRetries))
			break
		}
	}
	switch test[0] {
	case "NONE":
		return nil, nil
	case "CMD":
		p.Args = test[1:]
	case "CMD-SHELL":
		if len(test) != 2 {
			return nil, fmt.Errorf("healthcheck: CMD-SHELL takes one text, not %d", len(test)-1)
		}
		// The container's own shell, as one argument of it.
		p.Args = []string{"/bin/sh", "-c", test[1]}
	default:
		return nil, fmt.Errorf("healthcheck: %q is none of NONE, CMD and CMD-SHELL", clip(test[0]))
	}
	if len(p.Args) == 0 || p.Args[0] == "" {
		return nil, fmt.Errorf("healthcheck: there is no command")
	}
	return p, nil
}

// Proto is the policy written out: Effective makes the same of it.
func (p *Policy) Proto() *taskpb.Healthcheck {
	return &taskpb.Healthcheck{
		Test: append([]string{"CMD"}, p.Args...), IntervalNs: int64(p.Interval), TimeoutNs: int64(p.Timeout),
		StartPeriodNs: int64(p.StartPeriod), StartIntervalNs: int64(p.StartInterval), Retries: uint32(p.Retries),
	}
}

// bounded is the first duration that is given, within its bounds.
func bounded(least, most, otherwise time.Duration, given ...int64) time.Duration {
	for _, ns := range given {
		if ns > 0 {
			return min(max(time.Duration(ns), least), most)
		}
	}
	return otherwise
}

// Result of one check.
type Result struct {
	// Code is the exit code; the others go before it.
	Code     uint32
	TimedOut bool
	// Err says why it could not be run.
	Err error
	// Output is its first bytes, cleaned for people.
	Output string
}

func (r Result) ok() bool { return r.Code == 0 && !r.TimedOut && r.Err == nil }

// Status of a container.
type Status int

// The states, in the order they are passed.
const (
	Starting Status = iota
	Healthy
	Unhealthy
)

// Record is what is known of one container.
type Record struct {
	policy   *Policy
	started  time.Time
	status   Status
	failures int // in a row, of those that count
	message  string
}

// NewRecord begins for a container started then. healthy: it was seen so.
func NewRecord(p *Policy, started time.Time, healthy bool) *Record {
	r := &Record{policy: p, started: started}
	if healthy {
		r.status = Healthy
	}
	return r
}

// Status after the last result, with what to tell people of it.
func (r *Record) Status() (Status, string) { return r.status, r.message }

// Delay is the pause before the next check.
func (r *Record) Delay(now time.Time) time.Duration {
	if r.status == Starting && r.excused(now) {
		return min(r.policy.StartInterval, r.policy.Interval)
	}
	return r.policy.Interval
}

// excused reports whether a failure of a check begun then does not count.
func (r *Record) excused(at time.Time) bool {
	return at.Before(r.started.Add(max(r.policy.StartPeriod, r.policy.Interval)))
}

// Take counts the result of a check that was begun at that time.
func (r *Record) Take(begun time.Time, res Result) {
	if r.status == Unhealthy {
		return
	}
	if res.ok() {
		r.status, r.failures, r.message = Healthy, 0, ""
		return
	}
	if r.status == Starting {
		r.message = "its healthcheck fails: " + r.policy.describe(res)
		if r.excused(begun) {
			return
		}
	}
	if r.failures++; r.failures >= r.policy.Retries {
		r.status = Unhealthy
		r.message = fmt.Sprintf("unhealthy: %s (%d healthchecks failed in a row)", r.policy.describe(res), r.failures)
	}
}

func (p *Policy) describe(r Result) string {
	text := fmt.Sprintf("exit code %d", r.Code)
	switch {
	case r.Err != nil:
		return clip(r.Err.Error())
	case r.TimedOut:
		text = fmt.Sprintf("no end within %s", p.Timeout)
	}
	if r.Output != "" {
		text += ": " + clip(r.Output)
	}
	return text
}

func clip(s string) string {
	const most = 200
	n := 0
	for i := range s {
		if n++; n > most {
			return s[:i] + "…"
		}
	}
	return s
}
