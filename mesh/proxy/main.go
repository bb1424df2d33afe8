package proxy

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"net/netip"
	"os"
	"os/signal"
	"runtime/debug"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/redoubt-cluster/redoubt/internal/sandbox"
)

// Listening is what the process says on its standard output once it takes
// connections. Whatever else it says is why it does not.
const Listening = "listening\n"

// Profile is what it keeps: to make connections. It listens already.
func Profile() sandbox.Profile {
	return sandbox.Profile{Files: &sandbox.Files{Connect: true}, Syscalls: sandbox.Resolver}
}

// Main is the process. It says Listening to out, once.
func Main(args []string, out io.Writer) error {
	r, port, addrs, err := parse(args)
	if err != nil {
		return err
	}
	ctx, stop := signal.NotifyContext(context.Background(), unix.SIGTERM)
	defer stop()
	debug.SetGCPercent(50) // its memory is the task's
	most, err := places()
	if err != nil {
		return err
	}
	r.Most = min(r.Most, most)
	listeners, err := Listen(ctx, port, addrs...)
	if err != nil {
		return err
	}
	if _, err := sandbox.Apply(Profile()); err != nil {
		return err
	}
	if _, err := io.WriteString(out, Listening); err != nil {
		return err
	}
	if err := r.Serve(ctx, listeners...); ctx.Err() == nil {
		return err
	}
	return nil
}

// places is how many connections there are descriptors for: two for each.
func places() (int, error) {
	var limit unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &limit); err != nil {
		return 0, err
	}
	if limit.Cur < descriptors+2 {
		return 0, fmt.Errorf("%d open files are too few for a connection: raise the limit that containerd gives to containers", limit.Cur)
	}
	return int(min((limit.Cur-descriptors)/2, MaxConnections)), nil
}

func parse(args []string) (r *Relay, port uint16, addrs []netip.Addr, err error) {
	fs := flag.NewFlagSet("redoubt-proxy", flag.ContinueOnError)
	fs.SetOutput(io.Discard)
	at := fs.String("at", "", "addresses to listen on, with commas")
	listen, published, target := fs.Uint("listen", 0, ""), fs.Uint("published", 0, ""), fs.Uint("target", 0, "")
	host := fs.String("host", "", "")
	most := fs.Uint("most", MaxConnections, "connections at one time")
	if err := fs.Parse(args); err != nil {
		return nil, 0, nil, notForPeople(err)
	}
	for _, n := range []uint{*listen, *published, *target} {
		if n == 0 || n > 65535 {
			return nil, 0, nil, notForPeople(fmt.Errorf("port %d is none", n))
		}
	}
	if *most == 0 || *most > MaxConnections {
		return nil, 0, nil, notForPeople(fmt.Errorf("%d connections are none, or more than %d", *most, MaxConnections))
	}
	texts := strings.Split(*at, ",")
	if len(texts) > maxAddrs || fs.NArg() > 0 {
		return nil, 0, nil, notForPeople(errors.New("too many arguments"))
	}
	for _, text := range texts {
		a, err := netip.ParseAddr(text)
		if err != nil || a.Is4In6() || a.Zone() != "" || a.IsUnspecified() {
			return nil, 0, nil, notForPeople(fmt.Errorf("%q is no address of a task", text))
		}
		addrs = append(addrs, a)
	}
	r = &Relay{Published: uint16(*published), Target: uint16(*target), Most: int(*most)}
	if *host != "" {
		if r.Address, err = netip.ParseAddr(*host); err != nil || r.Address.Is4In6() || r.Address.Zone() != "" {
			return nil, 0, nil, notForPeople(fmt.Errorf("%q is no address", *host))
		}
	}
	return r, uint16(*listen), addrs, nil
}

func notForPeople(err error) error {
	return fmt.Errorf("redoubt-proxy is not for people to start, redoubt-rund does: %w", err)
}

// Run is Main with the process' own arguments and files.
func Run() int {
	if err := Main(os.Args[1:], os.Stdout); err != nil {
		fmt.Fprintln(os.Stdout, err)
		return 1
	}
	return 0
}
