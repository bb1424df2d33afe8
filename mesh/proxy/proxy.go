// Package proxy is redoubt-proxy: it puts a PROXY protocol header in front of
// what clients of one published port send to one task, for programs that want to
// be told of the client that way.
//
// # Where it runs
//
// In the container of the task, as a process of its own beside the program's:
// rund starts it there (scheduler/rund/relay.go), under a user that no image uses,
// without a capability, in the task's network namespace and cgroup. So it can
// reach what the container can and nothing else, what it costs is the task's, and
// a client that takes it over has got into a container, with less than the
// container's own program may do. Entry nodes lead clients of the port to the
// port that it listens on, and to no other of the task.
//
// # What it does
//
// For each connection it opens one to the program, at the address that the client
// was led to, as if the client had come there itself. The header goes first; from
// then on bytes pass both ways as they come, a header that the client made up
// among them. Where one side ends what it sends, so does the other; where one
// breaks off, or the program does not listen, the other is reset. Nothing is kept
// of what passes, and a connection on which nothing passes holds no buffer.
//
// How long a silent client may stay is for the program to say. Once that ended what
// it sends, a client has lingerFor to say something, again and again; and one that
// takes nothing of what it is sent is reset after stalledFor. Else whoever wants
// could have all places for ever, however soon the program closes.
//
// It parses nothing and takes no word from anybody: what it needs to know are
// arguments. Another set of these is another process.
package proxy

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"
)

// A Relay leads connections to a program.
type Relay struct {
	// Published is the port that clients ask for, for the header.
	Published uint16
	// Address is the one that it is published at, if it is one; else the header has
	// the address of the task that the client was led to.
	Address netip.Addr
	// Target is the port that the program listens on.
	Target uint16
	// Most is how many connections there may be; others wait. 0: MaxConnections.
	Most int

	// In place of lingerFor and stalledFor; set by tests only.
	shortly time.Duration
}

// Listen opens the addresses' port.
func Listen(ctx context.Context, port uint16, addrs ...netip.Addr) (all []net.Listener, err error) {
	var config net.ListenConfig
	config.SetMultipathTCP(false)
	config.KeepAliveConfig = net.KeepAliveConfig{Enable: true, Idle: keepAliveIdle, Interval: keepAliveEvery, Count: keepAliveCount}
	for _, a := range addrs {
		l, err := config.Listen(ctx, network(a), netip.AddrPortFrom(a, port).String())
		if err != nil {
			for _, l := range all {
				l.Close()
			}
			return nil, err
		}
		all = append(all, l)
	}
	return all, nil
}

func network(a netip.Addr) string {
	if a.Is4() {
		return "tcp4"
	}
	return "tcp6"
}

// Serve takes connections until ctx ends or a listener fails for good, and closes
// the listeners. It returns when the last connection has ended.
func (r *Relay) Serve(ctx context.Context, listeners ...net.Listener) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	most := r.Most
	if most <= 0 {
		most = MaxConnections
	}
	places := make(chan struct{}, most+len(listeners)-1) // who waits for a connection has one
	var running sync.WaitGroup
	for _, l := range listeners {
		running.Go(func() { cancel(r.accept(ctx, l, places, &running)) })
	}
	running.Wait()
	return context.Cause(ctx)
}

// accept takes a connection when there is a place for it.
func (r *Relay) accept(ctx context.Context, l net.Listener, places chan struct{}, running *sync.WaitGroup) error {
	stop := context.AfterFunc(ctx, func() { l.Close() })
	defer func() {
		if stop() {
			l.Close()
		}
	}()
	for {
		select {
		case places <- struct{}{}:
		case <-ctx.Done():
			return ctx.Err()
		}
		c, err := l.Accept()
		if err != nil {
			<-places
			if ctx.Err() != nil || errors.Is(err, net.ErrClosed) {
				return err
			}
			// The kernel is short of something: others need it more.
			select {
			case <-time.After(acceptPause):
				continue
			case <-ctx.Done():
				return ctx.Err()
			}
		}
		running.Go(func() {
			defer func() { <-places }()
			r.relay(ctx, c.(*net.TCPConn))
		})
	}
}

// relay serves one client.
func (r *Relay) relay(ctx context.Context, client *net.TCPConn) {
	defer client.Close()
	header, at, err := r.header(client)
	if err != nil {
		reset(client)
		return
	}
	dialer := net.Dialer{Timeout: connectTimeout, KeepAlive: -1} // it is on this machine
	dialer.SetMultipathTCP(false)
	up, err := dialer.DialContext(ctx, network(at), netip.AddrPortFrom(at, r.Target).String())
	if err != nil {
		reset(client)
		return
	}
	program := up.(*net.TCPConn)
	defer program.Close()
	stop := context.AfterFunc(ctx, func() { reset(client); reset(program) })
	defer stop()
	if _, err := program.Write(header); err != nil {
		reset(client)
		return
	}
	// A program that closed cannot be told from one that ended what it sends, so what
	// bounds how long a client has the place are the client's own signs of life.
	var ended atomic.Bool
	var other sync.WaitGroup
	other.Go(func() {
		pass(program, client, func() {
			if ended.Load() {
				_ = client.SetReadDeadline(time.Now().Add(r.patience(lingerFor)))
			}
		})
	})
	pass(client, program, func() { _ = client.SetWriteDeadline(time.Now().Add(r.patience(stalledFor))) })
	ended.Store(true)
	_ = client.SetReadDeadline(time.Now().Add(r.patience(lingerFor)))
	other.Wait()
}

func (r *Relay) patience(usual time.Duration) time.Duration {
	if r.shortly > 0 {
		return r.shortly
	}
	return usual
}

// header is what goes before the client's bytes, and the address at which the
// client was led here.
func (r *Relay) header(client *net.TCPConn) (header []byte, at netip.Addr, err error) {
	from, err := addrPort(client.RemoteAddr())
	if err != nil {
		return nil, at, err
	}
	to, err := addrPort(client.LocalAddr())
	if err != nil {
		return nil, at, err
	}
	at = to.Addr()
	if r.Address.IsValid() && r.Address.Is4() == at.Is4() {
		to = netip.AddrPortFrom(r.Address, 0)
	}
	header, err = Header(from, netip.AddrPortFrom(to.Addr(), r.Published))
	return header, at, err
}

func addrPort(a net.Addr) (netip.AddrPort, error) {
	tcp, ok := a.(*net.TCPAddr)
	if !ok {
		return netip.AddrPort{}, fmt.Errorf("%v is no address of TCP", a)
	}
	p := tcp.AddrPort()
	return netip.AddrPortFrom(p.Addr().Unmap().WithZone(""), p.Port()), nil
}

// reset has the other end see that the connection broke.
func reset(c *net.TCPConn) {
	_ = c.SetLinger(0)
	_ = c.Close()
}
