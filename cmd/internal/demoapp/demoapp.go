// Package demoapp is what the demo image runs: a tiny HTTP server that says
// where it is, and a few ways to misbehave, for trying what the cluster does
// about them.
//
//	demoapp [--listen :80]   serve; / says the host name and address,
//	                         /env the names (never the values) of the
//	                         environment, /client who asks, /healthz ok; a
//	                         datagram to the same port is answered with all
//	                         three; with --proxy-protocol it takes nobody's word
//	                         but that of a header of the PROXY protocol
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
	"sync"
	"syscall"
	"time"

	"github.com/pires/go-proxyproto"
)

const (
	drain  = 5 * time.Second
	maxEat = 1 << 20 // MiB

	maxDatagram = 2048
)

// Main runs the program and returns its exit code.
func Main(args []string, stdout, stderr io.Writer) int {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, os.Interrupt)
	defer stop()
	fs := flag.NewFlagSet("demoapp", flag.ContinueOnError)
	fs.SetOutput(stderr)
	listen := fs.String("listen", ":80", "address to listen on")
	headed := fs.Bool("proxy-protocol", false, "connections begin with a PROXY protocol header, which says who asks")
	if err := fs.Parse(args); err != nil {
		return 2
	}
	var err error
	switch a := fs.Args(); {
	case len(a) == 0:
		err = serve(ctx, *listen, *headed, stdout)
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
		addr, _ := r.Context().Value(http.LocalAddrContextKey).(net.Addr)
		fmt.Fprintln(w, hello(addr))
	})
	mux.HandleFunc("GET /client", func(w http.ResponseWriter, r *http.Request) {
		addr, _ := r.Context().Value(http.LocalAddrContextKey).(net.Addr)
		fmt.Fprintf(w, "%s, you are %s\n", hello(addr), r.RemoteAddr)
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

func hello(addr net.Addr) string {
	host, err := os.Hostname()
	if err != nil {
		host = err.Error()
	}
	return fmt.Sprintf("hello from %s at %v", host, addr)
}

// answer answers datagrams until the socket is closed.
func answer(c net.PacketConn) {
	buf := make([]byte, maxDatagram)
	for {
		_, from, err := c.ReadFrom(buf)
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err == nil {
			c.WriteTo(fmt.Appendf(nil, "%s, you are %s\n", hello(c.LocalAddr()), from), from)
		}
	}
}

func serve(ctx context.Context, addr string, headed bool, out io.Writer) error {
	l, err := net.Listen("tcp", addr)
	if err != nil {
		return err
	}
	datagrams, err := net.ListenPacket("udp", l.Addr().String())
	if err != nil {
		l.Close()
		return err
	}
	var answering sync.WaitGroup
	answering.Go(func() { answer(datagrams) })
	defer answering.Wait()
	defer datagrams.Close()
	s := &http.Server{Handler: Handler(), ReadHeaderTimeout: 10 * time.Second}
	fmt.Fprintf(out, "listening on %s\n", l.Addr())
	if headed {
		l = &proxyproto.Listener{Listener: l, ReadHeaderTimeout: 10 * time.Second,
			ConnPolicy: func(proxyproto.ConnPolicyOptions) (proxyproto.Policy, error) { return proxyproto.REQUIRE, nil }}
	}
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
