// Command compare runs Redoubt and its peers in turn, so that all of them meet
// the same machine in the same mood, and prints a table: median and range of
// each figure. Everything the runners said stands in the log before it.
//
//	compare [-rounds 5] [-only store,reads,…] [-peers=false] [-managers 3] [-clients 64] …
//
// The runners are binaries in -runners: redoubt (cmd/internal/bench), etcd,
// swarmkit, sim (cmd/internal/sim) and place (the test binary of scheduler).
// `make bench-peers` builds them. A runner that fails is a line in the table that
// says so; the others go on.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"
)

type options struct {
	rounds, seconds, managers, clients, failovers int
	nodes, tasks, place, agents                   int
	peers                                         bool
	only, runners, bin, log                       string
}

func main() {
	var o options
	flag.IntVar(&o.rounds, "rounds", 5, "how often each is measured")
	flag.IntVar(&o.seconds, "seconds", 10, "length of one measurement of a rate")
	flag.IntVar(&o.managers, "managers", 3, "managers or members")
	flag.IntVar(&o.clients, "clients", 64, "concurrent clients")
	flag.IntVar(&o.failovers, "failovers", 10, "leaders taken away in one measurement")
	flag.IntVar(&o.nodes, "nodes", 1000, "place: nodes")
	flag.IntVar(&o.place, "place", 100_000, "place: tasks")
	flag.IntVar(&o.tasks, "tasks", 10_000, "tasks: tasks")
	flag.IntVar(&o.agents, "agents", 100, "tasks: agents")
	flag.BoolVar(&o.peers, "peers", true, "also the peers")
	flag.StringVar(&o.only, "only", "", "measurements to make, by name and with commas; empty: all")
	flag.StringVar(&o.runners, "runners", "out/bench", "directory of the runners")
	flag.StringVar(&o.bin, "bin", "bin", "directory of Redoubt's binaries")
	flag.StringVar(&o.log, "log", "", "file that gets a copy of all that is printed")
	flag.Parse()
	ctx, cancel := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer cancel()
	if err := run(ctx, o); err != nil {
		fmt.Fprintln(os.Stderr, "compare:", err)
		cancel()
		os.Exit(1)
	}
}

func run(ctx context.Context, o options) error {
	out := io.Writer(os.Stdout)
	if o.log != "" {
		f, err := os.OpenFile(o.log, os.O_CREATE|os.O_WRONLY|os.O_TRUNC, 0o600)
		if err != nil {
			return err
		}
		defer f.Close()
		out = io.MultiWriter(out, f)
	}
	var known []string
	var rows []row
	for _, m := range measurements(o) {
		known = append(known, m.name)
		if o.only != "" && !slices.Contains(strings.Split(o.only, ","), m.name) {
			continue
		}
		r, err := m.run(ctx, o, out)
		if err != nil {
			return err
		}
		rows = append(rows, r...)
	}
	if len(rows) == 0 {
		return fmt.Errorf("-only %s: the measurements are %s", o.only, strings.Join(known, ", "))
	}
	fmt.Fprintf(out, "\n%s, %d CPUs, %s, load before and after each line in the log\n\n", machine(), runtime.NumCPU(), runtime.Version())
	fmt.Fprintln(out, "| measurement | subject | n | median | range | p99, median | leader's memory, median |")
	fmt.Fprintln(out, "|---|---|---|---|---|---|---|")
	for _, r := range rows {
		fmt.Fprintln(out, r)
	}
	return nil
}

// subject is what is measured, and how.
type subject struct {
	name   string
	args   []string
	env    []string
	figure *regexp.Regexp // of the runner's line, the figure at hand
}

type measurement struct {
	name, title, unit string
	rounds            int
	subjects          []subject
}

var (
	p99    = regexp.MustCompile(`p99=([0-9.]+)ms`)
	memory = regexp.MustCompile(`(?:leader=|manager-peak=|manager RSS )([0-9.]+) ?MiB`)
)

// run measures the subjects in turn, round by round.
func (m measurement) run(ctx context.Context, o options, out io.Writer) ([]row, error) {
	rows := make([]row, len(m.subjects))
	for i, s := range m.subjects {
		rows[i] = row{title: m.title, unit: m.unit, subject: s.name}
	}
	for round := range m.rounds {
		for i, s := range m.subjects {
			before := load()
			line, err := s.measure(ctx, o)
			if ctx.Err() != nil {
				return nil, errors.Join(err, ctx.Err())
			}
			if err != nil {
				line = "failed: " + err.Error()
				rows[i].failed++
			}
			fmt.Fprintf(out, "%s %-8s round=%d %-14s %s (load %s, %s)\n", time.Now().Format(time.TimeOnly), m.name, round+1, s.name, line, before, load())
			if err == nil {
				rows[i].add(line, s.figure)
			}
		}
	}
	return rows, nil
}

// measure runs the runner and returns the last line it printed.
func (s subject) measure(ctx context.Context, o options) (string, error) {
	cmd := exec.CommandContext(ctx, filepath.Join(o.runners, s.args[0]), s.args[1:]...)
	cmd.Env = append(os.Environ(), s.env...)
	// Asked to stop, it takes down what it made.
	cmd.Cancel = func() error { return cmd.Process.Signal(os.Interrupt) }
	var errOut strings.Builder
	cmd.Stderr = &errOut
	b, err := cmd.Output()
	if err != nil {
		return "", fmt.Errorf("%w: %s", err, lastLine(errOut.String()))
	}
	for line := range strings.Lines(string(b)) {
		if s.figure.MatchString(line) {
			return strings.TrimSpace(line), nil
		}
	}
	return "", fmt.Errorf("no figure in %q", lastLine(string(b)))
}

func lastLine(s string) string {
	s = strings.TrimSpace(s)
	return s[strings.LastIndexByte(s, '\n')+1:]
}

// row is a line of the table.
type row struct {
	title, unit, subject string
	figures, tails, mibs []float64
	failed               int
}

func (r *row) add(line string, figure *regexp.Regexp) {
	take := func(into *[]float64, re *regexp.Regexp) {
		if m := re.FindStringSubmatch(line); m != nil {
			if f, err := strconv.ParseFloat(m[1], 64); err == nil {
				*into = append(*into, f)
			}
		}
	}
	take(&r.figures, figure)
	take(&r.tails, p99)
	take(&r.mibs, memory)
}

func (r row) String() string {
	for _, s := range [][]float64{r.figures, r.tails, r.mibs} {
		slices.Sort(s)
	}
	failed := ""
	if r.failed > 0 {
		failed = fmt.Sprintf(" (%d failed)", r.failed)
	}
	if len(r.figures) == 0 {
		return fmt.Sprintf("| %s | %s | 0%s | – | – | – | – |", r.title, r.subject, failed)
	}
	return fmt.Sprintf("| %s | %s | %d%s | %s%s | %s–%s | %s | %s |", r.title, r.subject, len(r.figures), failed, number(median(r.figures)), r.unit,
		number(r.figures[0]), number(r.figures[len(r.figures)-1]), optional(r.tails, " ms"), optional(r.mibs, " MiB"))
}

func median(sorted []float64) float64 {
	n := len(sorted)
	return (sorted[(n-1)/2] + sorted[n/2]) / 2
}

func optional(sorted []float64, unit string) string {
	if len(sorted) == 0 {
		return "–"
	}
	return number(median(sorted)) + unit
}

func number(f float64) string {
	if f >= 100 {
		return strconv.FormatFloat(f, 'f', 0, 64)
	}
	return strconv.FormatFloat(f, 'f', 2, 64)
}

func load() string {
	b, err := os.ReadFile("/proc/loadavg")
	if err != nil {
		return "?"
	}
	one, _, _ := strings.Cut(string(b), " ")
	return one
}

func machine() string {
	b, _ := os.ReadFile("/proc/version")
	f := strings.Fields(string(b))
	if len(f) < 3 {
		return "unknown kernel"
	}
	return f[0] + " " + f[2]
}
