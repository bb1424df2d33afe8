// Package meshload asks a service for as long as it is told, and says what became
// of every request. It is what stories and benches hold the mesh against: a task
// that is killed, an update that goes through a service, an entry node without a
// task.
//
// Requests leave at a fixed rate, however long the answers take (an open loop:
// one that waits would ask less while something is wrong, and hide it), or with
// Clients as fast as answers come. Of those at a rate every second has a connection
// of its own; the others share connections that are kept, by as many users.
//
// A request failed where it had no answer of status 200 within the timeout. One
// that was sent again, as the kept connection was closed under it before any answer,
// is counted as retried and not as failed: that is how HTTP clients treat a
// server that goes. One that took longer than Slow is counted too: a lost packet of
// a connection's beginning is sent again after a second.
//
// Run is the library; Main is for a process inside a sandbox's network, as
// whose answer it prints the Report as JSON.
package meshload

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"os"
	"os/signal"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
)

const (
	// Slow is longer than any answer, and shorter than the second after which the
	// kernel sends a connection's first packet again.
	Slow = 900 * time.Millisecond

	users       = 64   // of kept connections
	maxInFlight = 8192 // more is a failure of its own
	maxFailures = 1000 // of those told one by one
	maxAnswer   = 4 << 10
	maxIdle     = 4 // connections of one user
)

// Config says what is asked.
type Config struct {
	URL string
	// Rate is requests a second; or Clients, each with a request at a time.
	Rate    float64
	Clients int
	// Kept: no connections of their own.
	Kept    bool
	For     time.Duration
	Timeout time.Duration
}

// Report is what became of the requests. Times are of the machine's clock, in ns.
type Report struct {
	Began, Ended              int64
	Sent, OK, Failed, Retried int
	Slow                      int
	P50, P99, Max             time.Duration
	Causes                    map[string]int
	Failures                  []Failure        // the first ones
	Answered                  map[string]*Span // by the first word of the answer that is a name
	RequestsPerSecond         float64
	ProcessorTime             time.Duration // that the process has had
}

// Failure is a request without its answer.
type Failure struct {
	Began, Ended int64
	Connected    int64 // when the connection was there; 0: there was none, or an older one
	Local        string
	Fresh        bool
	Cause        string
}

// Span is when somebody answered.
type Span struct {
	N           int
	First, Last int64
}

type load struct {
	c    Config
	to   *target
	kept []*user

	mu     sync.Mutex // guards the following
	report Report
	took   []time.Duration
}

// Run asks until ctx or the time is over, and waits for the last answers.
func Run(ctx context.Context, c Config) (*Report, error) {
	if c.URL == "" || c.For <= 0 || c.Timeout <= 0 || (c.Rate > 0) == (c.Clients > 0) {
		return nil, errors.New("meshload: give a URL, a duration, a timeout, and a rate or clients")
	}
	to, err := newTarget(c.URL, c.Timeout)
	if err != nil {
		return nil, err
	}
	l := &load{c: c, to: to}
	for range max(users, c.Clients) {
		l.kept = append(l.kept, &user{t: to})
	}
	l.report = Report{Causes: map[string]int{}, Answered: map[string]*Span{}, Began: time.Now().UnixNano()}
	ctx, cancel := context.WithTimeout(ctx, c.For)
	defer cancel()
	var wg sync.WaitGroup
	if c.Clients > 0 {
		for i := range c.Clients {
			wg.Go(func() {
				for n := 0; ctx.Err() == nil; n++ {
					l.ask(i, !c.Kept && n%2 == 1)
				}
			})
		}
	} else {
		l.paced(ctx, &wg)
	}
	wg.Wait()
	for _, u := range l.kept {
		u.close()
	}
	return l.finish(), nil
}

// paced begins request i at its time, or as soon as it can after it.
func (l *load) paced(ctx context.Context, wg *sync.WaitGroup) {
	begun := time.Now()
	var inFlight atomic.Int64
	t := time.NewTimer(0)
	defer t.Stop()
	for i := 0; ; i++ {
		due := begun.Add(time.Duration(float64(i) / l.c.Rate * 1e9))
		if wait := time.Until(due); wait > 0 {
			t.Reset(wait)
			select {
			case <-t.C:
			case <-ctx.Done():
				return
			}
		} else if ctx.Err() != nil {
			return
		}
		if inFlight.Add(1) > maxInFlight {
			inFlight.Add(-1)
			now := time.Now()
			l.note(now, !l.c.Kept && i%2 == 1, &trace{}, "", fmt.Errorf("more than %d requests wait for an answer", maxInFlight))
			continue
		}
		wg.Go(func() {
			defer inFlight.Add(-1)
			l.ask(i/2, !l.c.Kept && i%2 == 1)
		})
	}
}

// ask makes one request.
func (l *load) ask(user int, fresh bool) {
	began := time.Now()
	var tr trace
	var body string
	var err error
	if fresh {
		body, err = l.to.ask(&tr)
	} else {
		body, err = l.kept[user%len(l.kept)].ask(&tr)
	}
	who, _, _ := strings.Cut(strings.TrimPrefix(body, "hello from "), " ")
	l.note(began, fresh, &tr, strings.TrimSpace(who), err)
}

func (l *load) note(began time.Time, fresh bool, tr *trace, who string, err error) {
	now := time.Now()
	l.mu.Lock()
	defer l.mu.Unlock()
	r := &l.report
	r.Sent++
	if tr.retried {
		r.Retried++
	}
	if err != nil {
		cause := Cause(err)
		r.Failed++
		r.Causes[cause]++
		if len(r.Failures) < maxFailures {
			f := Failure{Began: began.UnixNano(), Ended: now.UnixNano(), Local: tr.local, Fresh: fresh, Cause: cause}
			if !tr.connected.IsZero() {
				f.Connected = tr.connected.UnixNano()
			}
			r.Failures = append(r.Failures, f)
		}
		return
	}
	r.OK++
	d := now.Sub(began)
	l.took = append(l.took, d)
	if d > Slow {
		r.Slow++
	}
	s := r.Answered[who]
	if s == nil {
		s = &Span{First: now.UnixNano()}
		r.Answered[who] = s
	}
	s.N, s.Last = s.N+1, now.UnixNano()
}

// Cause is an error in a few words, the same for the same.
func Cause(err error) string {
	text := err.Error()
	during := "asking: "
	if strings.Contains(text, "dial ") {
		during = "connecting: "
	}
	var ne net.Error
	switch {
	case errors.As(err, &ne) && ne.Timeout():
		return during + "timeout"
	case errors.Is(err, syscall.ECONNREFUSED):
		return during + "refused"
	case errors.Is(err, syscall.ECONNRESET):
		return during + "reset"
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
		return during + "closed"
	}
	i := strings.LastIndex(text, ": ") // without addresses
	return during + strings.TrimSpace(text[i+1:])
}

func (l *load) finish() *Report {
	r := &l.report
	r.Ended = time.Now().UnixNano()
	var had syscall.Rusage
	if syscall.Getrusage(syscall.RUSAGE_SELF, &had) == nil {
		r.ProcessorTime = time.Duration(had.Utime.Nano() + had.Stime.Nano())
	}
	r.RequestsPerSecond = float64(r.OK) / (float64(r.Ended-r.Began) / 1e9)
	if n := len(l.took); n > 0 {
		slices.Sort(l.took)
		r.P50, r.P99, r.Max = l.took[n/2], l.took[n*99/100], l.took[n-1]
	}
	return r
}

// Main is Run with flags; it ends early at a signal.
func Main(args []string, stdout, stderr io.Writer) int {
	var c Config
	fs := flag.NewFlagSet("meshload", flag.ContinueOnError)
	fs.SetOutput(stderr)
	fs.StringVar(&c.URL, "url", "", "what is asked")
	fs.Float64Var(&c.Rate, "rate", 0, "requests a second")
	fs.IntVar(&c.Clients, "clients", 0, "in place of a rate: so many, each with a request at a time")
	fs.BoolVar(&c.Kept, "kept", false, "no connections of their own")
	fs.DurationVar(&c.For, "for", 10*time.Second, "how long")
	fs.DurationVar(&c.Timeout, "timeout", 5*time.Second, "of a request")
	if err := fs.Parse(args); err != nil {
		return 2
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	r, err := Run(ctx, c)
	if err == nil {
		err = json.NewEncoder(stdout).Encode(r)
	}
	if err != nil {
		fmt.Fprintln(stderr, err)
		return 1
	}
	return 0
}
