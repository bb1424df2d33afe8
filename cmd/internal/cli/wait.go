package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"golang.org/x/term"

	"github.com/redoubt-cluster/redoubt/cmd/internal/apiclient"
	"github.com/redoubt-cluster/redoubt/cmd/internal/control/apierr"
	"github.com/redoubt-cluster/redoubt/cmd/internal/control/controlpb"
)

// converge waits for each service to converge, showing progress on stderr.
func (a *app) converge(ctx context.Context, ids []string, w waitFlags) error {
	if w.detach {
		return nil
	}
	wait, cancel := context.WithTimeout(ctx, w.timeout)
	defer cancel()
	for _, id := range ids {
		if err := a.convergeOne(wait, id, w, a.progress(w.quiet)); err != nil {
			return err
		}
	}
	return nil
}

// convergeOne follows one service. A watch that breaks (the leader died) is
// taken up again until the time is over.
func (a *app) convergeOne(ctx context.Context, id string, w waitFlags, show *progress) error {
	conv := &convergence{follows: w.follows, run: w.run}
	var broken error
	retry := time.NewTicker(time.Second)
	defer retry.Stop()
	for {
		err := a.watchOnce(ctx, id, conv, show)
		switch reason := apierr.ReasonOf(err); {
		case err == nil:
			return nil
		case ctx.Err() != nil && errors.Is(ctx.Err(), context.DeadlineExceeded):
			_, left := conv.standing()
			return failf(ExitNotConverged, "not converged within %s (%s)%s: it goes on; see `redoubt service ps %s`", w.timeout, left, because(broken), id)
		case ctx.Err() != nil:
			return ctx.Err()
		case reason == apierr.ReasonUnreachable || reason == apierr.ReasonNoLeader || reason == apierr.ReasonCanceled:
			broken = err
		case reason == apierr.ReasonTimeout: // the stream's end, seen just before the context's
		default:
			return err
		}
		select {
		case <-retry.C:
		case <-ctx.Done():
		}
	}
}

func because(err error) string {
	if err == nil {
		return ""
	}
	return ", the watch broke: " + err.Error()
}

// watchOnce follows one stream until the service has converged (nil) or the
// stream ends (an error).
func (a *app) watchOnce(ctx context.Context, id string, conv *convergence, show *progress) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	c, err := a.dial(ctx)
	if err != nil {
		return err
	}
	defer c.Close()
	stream, err := c.WatchService(ctx, &controlpb.WatchServiceRequest{Service: id, Changes: true, Run: conv.run})
	if err != nil {
		return apiclient.Err(err)
	}
	views := make(chan *controlpb.WatchServiceResponse) // closed by the reader, after end is set
	var end error
	go func() {
		defer close(views)
		for {
			v, err := stream.Recv()
			if err != nil {
				end = err
				return
			}
			select {
			case views <- v:
			case <-ctx.Done():
				end = ctx.Err()
				return
			}
		}
	}()
	defer func() { // the reader ends with the stream's context
		cancel()
		for range views {
		}
	}()
	return a.followViews(views, &end, conv, show)
}

// followViews is watchOnce without the connection.
func (a *app) followViews(views <-chan *controlpb.WatchServiceResponse, end *error, conv *convergence, show *progress) error {
	stable := time.NewTimer(0)
	<-stable.C
	defer stable.Stop()
	for {
		select {
		case v, ok := <-views:
			if !ok {
				if errors.Is(*end, io.EOF) {
					return apierr.New(apierr.ReasonUnreachable, "", "the leader ended the watch")
				}
				return apiclient.Err(*end)
			}
			if v.Removed {
				return failf(ExitError, "the service was removed while it was waited for")
			}
			changed := conv.observe(v, time.Now())
			if v.More {
				continue
			}
			show.tasks(changed, conv)
			if err := conv.given(); err != nil {
				return err
			}
		case <-stable.C:
		}
		stable.Stop()
		if left, ok := conv.remaining(time.Now()); ok {
			if left == 0 {
				show.done(conv.doneText())
				return nil
			}
			stable.Reset(left)
		}
	}
}

// progress shows how tasks come up: redrawn in place on a terminal, a line per
// change elsewhere.
type progress struct {
	w     io.Writer
	rows  int // terminal rows to redraw in; 0: not a terminal
	drawn int
	of    string // whose progress it is, where it is not the only one; then rows is 0
}

func (a *app) progress(quiet bool) *progress {
	p := &progress{w: a.Stderr}
	if quiet {
		p.w = io.Discard
		return p
	}
	if f, ok := a.Stderr.(*os.File); ok && term.IsTerminal(int(f.Fd())) {
		if _, rows, err := term.GetSize(int(f.Fd())); err == nil {
			p.rows = max(rows-3, 1)
		}
	}
	return p
}

func (p *progress) tasks(changed []taskLine, conv *convergence) {
	if p.rows == 0 {
		p.lines(changed)
		return
	}
	var b strings.Builder
	if p.drawn > 0 {
		fmt.Fprintf(&b, "\x1b[%dA", p.drawn)
	}
	_, left := conv.standing()
	switch {
	case left == "" && conv.job():
		left = conv.doneText()
	case left == "":
		left = "all running, checking that they stay"
	}
	fmt.Fprintf(&b, "\x1b[K%s\n", left)
	p.drawn = 1
	for _, l := range conv.lines(p.rows) {
		fmt.Fprintf(&b, "\x1b[K  %-24s %s\n", printable(l.name), l.text)
		p.drawn++
	}
	b.WriteString("\x1b[J")
	io.WriteString(p.w, b.String())
}

// lines writes a line per change. More than maxAlike that came together and say
// the same are one line: of thousands of tasks without a node there is one thing
// to say.
func (p *progress) lines(changed []taskLine) {
	alike := map[string]int{}
	for _, l := range changed {
		alike[l.text]++
	}
	for _, l := range changed {
		switch n := alike[l.text]; {
		case n > maxAlike:
			alike[l.text] = -1
			fmt.Fprintf(p.w, "%s and %d others: %s\n", printable(l.name), n-1, l.text)
		case n > 0:
			fmt.Fprintf(p.w, "%s: %s\n", printable(l.name), l.text)
		}
	}
}

func (p *progress) done(text string) {
	fmt.Fprintln(p.w, strings.TrimSpace(printable(p.of)+" "+text))
}

// noticeAfter tells the operator something where what is under way takes longer
// than d. The function returned ends that.
func (a *app) noticeAfter(d time.Duration, text string) (end func()) {
	over, ended := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(ended)
		timer := time.NewTimer(d)
		defer timer.Stop()
		select {
		case <-timer.C:
			fmt.Fprintln(a.Stderr, "redoubt: "+text)
		case <-over:
		}
	}()
	return func() { close(over); <-ended }
}
