// Package demoapp is what the demo image runs: a tiny HTTP server that says
// where it is, and a few ways to misbehave, for trying what the cluster does
// about them.
//
//	demoapp [--listen :80]   serve; / says the host name and address,
//	                         /env the names (never the values) of the
//	                         environment, /healthz ok
//	demoapp exit CODE        end at once with CODE
//	demoapp eat MIB          use that much memory, then wait
//
// It keeps nothing and calls nobody.
package demoapp

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/signal"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"
)

const (
	drain  = 5 * time.Second
	maxEat = 1 << 20 // MiB
)

// Main runs the program and returns its exit code.
func Main(args []string, stdout, stderr io.Writer) int {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, os.Interrupt)
	defer stop()
	fs := flag.NewFlagSet("demoapp", flag.ContinueOnError)
	fs.SetOutput(stderr)
	listen := fs.String("listen", ":80", "address to listen on")
	if err := fs.Parse(args); err != nil {
		return 2
	}
	var err error
	switch a := fs.Args(); {
	case len(a) == 0:
		err = serve(ctx, *listen, stdout)
	case len(a) == 2 && a[0] == "exit":
		code, perr := strconv.Atoi(a[1])
		if perr != nil || code < 0 || code > 255 {
			fmt.Fprintf(stderr, "demoapp: exit code %q is not 0 to 255\n", a[1])
			return 2
		}
		fmt.Fprintf(stdout, "ending with %d\n", code)
		return code
	case len(a) == 2 && a[0] == "eat":
		err = eat(ctx, a[1], stdout)
	default:
		fmt.Fprintf(stderr, "demoapp: unknown arguments %q: use exit CODE, eat MIB, or none\n", a)
		return 2
	}
	if err != nil {
		fmt.Fprintf(stderr, "demoapp: %v\n", err)
		return 1
	}
	return 0
}

// Handler answers as the demo does.
func Handler() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /{$}", func(w http.ResponseWriter, r *http.Request) {
		host, err := os.Hostname()
		if err != nil {
			http.Error(w, err.Error(), http.StatusInternalServerError)
			return
		}
		addr := ""
		if a, ok := r.Context().Value(http.LocalAddrContextKey).(net.Addr); ok {
			addr = a.String()
		}
		fmt.Fprintf(w, "hello from %s at %s\n", host, addr)
	})
	mux.HandleFunc("GET /env", func(w http.ResponseWriter, _ *http.Request) {
		var names []string
		for _, kv := range os.Environ() {
			n, _, _ := strings.Cut(kv, "=")
			names = append(names, n)
		}
		slices.Sort(names)
		fmt.Fprintln(w, strings.Join(names, "\n"))
	})
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprintln(w, "ok") })
	return mux
}

func serve(ctx context.Context, addr string, out io.Writer) error {
	l, err := net.Listen("tcp", addr)
	if err != nil {
		return err
	}
	s := &http.Server{Handler: Handler(), ReadHeaderTimeout: 10 * time.Second}
	fmt.Fprintf(out, "listening on %s\n", l.Addr())
	done := make(chan error, 1)
	go func() { done <- s.Serve(l) }()
	select {
	case err := <-done:
		return err
	case <-ctx.Done():
	}
	fmt.Fprintln(out, "stopping")
	sctx, cancel := context.WithTimeout(context.Background(), drain)
	defer cancel()
	err = s.Shutdown(sctx)
	if serr := <-done; !errors.Is(serr, http.ErrServerClosed) {
		err = errors.Join(err, serr)
	}
	return err
}

// eat touches every page, so that the memory is really used.
func eat(ctx context.Context, mib string, out io.Writer) error {
	n, err := strconv.Atoi(mib)
	if err != nil || n < 1 || n > maxEat {
		return fmt.Errorf("%q MiB: give 1 to %d", mib, maxEat)
	}
	held := make([][]byte, 0, n)
	for range n {
		b := make([]byte, 1<<20)
		for i := 0; i < len(b); i += 4096 {
			b[i] = 1
		}
		held = append(held, b)
	}
	fmt.Fprintf(out, "holding %d MiB\n", len(held))
	<-ctx.Done()
	return nil
}
