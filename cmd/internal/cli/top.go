package cli

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"github.com/redoubt-cluster/redoubt/cmd/internal/control/controlpb"
)

// leastTopInterval is how often the cluster is asked at most.
const leastTopInterval = time.Second

func (a *app) topCmd() *cobra.Command {
	var (
		once  bool
		every time.Duration
	)
	c := &cobra.Command{
		Use:   "top",
		Short: "Watch the cluster in the terminal",
		Long: `top shows the cluster as it is now, drawn anew every few seconds: what is wrong,
the nodes with what is reserved of them, and the services that lack tasks first.

Keys: n, s and t show nodes, services or tasks alone and a all of them; the arrows,
space and b move through what is longer than the terminal; q ends it.

Without a terminal, or with --once, it prints one picture and ends.`,
		Example: `  redoubt top
  redoubt top --once`,
		Args: args(0, 0),
		RunE: func(c *cobra.Command, _ []string) error {
			if every < leastTopInterval {
				return usagef("--interval is %v: a second is the least", every)
			}
			if f, ok := a.Stdout.(*os.File); !once && ok && term.IsTerminal(int(f.Fd())) {
				return a.watchTop(c.Context(), f, every)
			}
			now, err := a.snapshot(c.Context(), topAll)
			if err != nil {
				return err
			}
			for _, line := range now.draw(topView{}, 0, a.colours()) {
				fmt.Fprintln(a.Stdout, line)
			}
			return nil
		},
	}
	c.Flags().BoolVar(&once, "once", false, "print one picture and end")
	c.Flags().DurationVar(&every, "interval", 2*time.Second, "how often the cluster is asked")
	return c
}

// snapshot asks for what a page shows.
func (a *app) snapshot(ctx context.Context, page topPage) (*topData, error) {
	d := &topData{at: time.Now()}
	return d, a.with(ctx, func(ctx context.Context, api *api) (err error) {
		if d.status, err = api.GetStatus(ctx, &controlpb.GetStatusRequest{}); err != nil {
			return err
		}
		if page == topAll || page == topNodes {
			r, err := api.ListNodes(ctx, &controlpb.ListNodesRequest{})
			if err != nil {
				return err
			}
			d.nodes, d.self = r.GetNodes(), r.GetSelf()
		}
		if page == topAll || page == topServices {
			r, err := api.ListServices(ctx, &controlpb.ListServicesRequest{})
			if err != nil {
				return err
			}
			d.services = r.GetServices()
		}
		if page == topTasks {
			r, err := api.ListTasks(ctx, &controlpb.ListTasksRequest{})
			if err != nil {
				return err
			}
			d.tasks = r.GetTasks()
		}
		return nil
	})
}

// The terminal's other screen, without a cursor, and back.
const (
	screenOn  = "\x1b[?1049h\x1b[?25l"
	screenOff = "\x1b[?25h\x1b[?1049l"
)

// watchTop owns the terminal until q, Ctrl-C or the context's end, and leaves it as it
// was.
func (a *app) watchTop(ctx context.Context, out *os.File, every time.Duration) (err error) {
	tty, err := a.Terminal()
	if err != nil {
		return failf(ExitError, "top needs the terminal for its keys: %v; --once does not", err)
	}
	defer tty.Close()
	restore, err := makeRaw(tty)
	if err != nil {
		return failf(ExitError, "the terminal cannot be read key by key: %v; --once does not need that", err)
	}
	fmt.Fprint(out, screenOn)
	defer func() {
		fmt.Fprint(out, screenOff)
		err = errors.Join(err, restore())
	}()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	keys := make(chan topKey)
	read := make(chan struct{})
	go func() { defer close(read); hearKeys(ctx, tty, keys) }()
	defer func() { // a deadline ends the read that is under way
		cancel()
		tty.SetReadDeadline(time.Unix(1, 0))
		<-read
	}()
	resized := make(chan os.Signal, 1)
	signal.Notify(resized, syscall.SIGWINCH)
	defer signal.Stop(resized)
	return a.drawTop(ctx, out, every, keys, resized)
}

// makeRaw has the terminal hand on each key, until restore. It goes around File.Fd, from
// which on no deadline ends a read.
func makeRaw(tty *os.File) (restore func() error, err error) {
	conn, err := tty.SyscallConn()
	if err != nil {
		return nil, err
	}
	var before *term.State
	if cerr := conn.Control(func(fd uintptr) { before, err = term.MakeRaw(int(fd)) }); cerr != nil || err != nil {
		return nil, errors.Join(cerr, err)
	}
	return func() (err error) {
		cerr := conn.Control(func(fd uintptr) { err = term.Restore(int(fd), before) })
		return errors.Join(cerr, err)
	}, nil
}

// drawTop asks and draws until a key ends it. It asks beside drawing, so that keys are
// heard while nobody answers.
func (a *app) drawTop(ctx context.Context, out *os.File, every time.Duration, keys <-chan topKey, resized <-chan os.Signal) error {
	type answer struct {
		page topPage
		data *topData
		err  error
	}
	var (
		view    topView
		data    = &topData{at: time.Now()}
		asking  bool
		answers = make(chan answer, 1)
		tick    = time.NewTicker(every)
	)
	defer tick.Stop()
	ctx, cancel := context.WithCancel(ctx)
	defer func() {
		cancel()
		if asking {
			<-answers
		}
	}()
	ask := func() {
		if asking {
			return
		}
		asking = true
		page := view.page
		go func() {
			d, err := a.snapshot(ctx, page)
			answers <- answer{page, d, err}
		}()
	}
	ask()
	for {
		width, height, err := term.GetSize(int(out.Fd()))
		if err != nil || width < 1 || height < 1 {
			width, height = 80, 24
		}
		lines := data.draw(view, width, a.colours())
		view.top = max(min(view.top, len(lines)-height), 0)
		if _, err := out.WriteString(screen(lines, view.top, height)); err != nil {
			return err
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-resized:
		case <-tick.C:
			ask()
		case got := <-answers:
			asking = false
			switch {
			case got.err != nil:
				data.trouble = got.err.Error()
			case got.page == view.page:
				data = got.data
			}
			if got.page != view.page {
				ask()
			}
		case k, ok := <-keys:
			if !ok || k == keyQuit {
				return nil
			}
			if page := view.page; view.press(k, height) && view.page != page {
				ask()
			}
		}
	}
}

// screen draws the lines that are seen, each to the end of its row, and clears the rest.
func screen(lines []string, top, height int) string {
	var b strings.Builder
	b.WriteString("\x1b[H")
	seen := lines[top:min(top+height, len(lines))]
	for i, l := range seen {
		if i > 0 {
			b.WriteString("\r\n")
		}
		b.WriteString(l + "\x1b[K")
	}
	b.WriteString("\x1b[J")
	return b.String()
}
