package proxy

import (
	"bufio"
	"context"
	"encoding/hex"
	"errors"
	"io"
	"net"
	"net/netip"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/pires/go-proxyproto"
)

const deadline = 30 * time.Second

// The bytes, as the protocol's text has them.
func TestHeader(t *testing.T) {
	for _, c := range []struct{ from, to, want string }{
		{"192.0.2.7:56324", "10.255.0.9:443", "0d0a0d0a000d0a515549540a" + "21" + "11" + "000c" + "c0000207" + "0aff0009" + "dc04" + "01bb"},
		{"[2001:db8::7]:1", "[fd00::9]:65535", "0d0a0d0a000d0a515549540a" + "21" + "21" + "0024" +
			"20010db8000000000000000000000007" + "fd000000000000000000000000000009" + "0001" + "ffff"},
	} {
		from, to := netip.MustParseAddrPort(c.from), netip.MustParseAddrPort(c.to)
		b, err := Header(from, to)
		if err != nil || hex.EncodeToString(b) != c.want {
			t.Errorf("%s to %s: %x, %v", c.from, c.to, b, err)
		}
		// And as somebody else reads them.
		h, err := proxyproto.Read(bufio.NewReader(strings.NewReader(string(b) + "GET")))
		if err != nil || h.Version != 2 || !h.Command.IsProxy() || !h.TransportProtocol.IsStream() || h.SourceAddr.String() != c.from || h.DestinationAddr.String() != c.to {
			t.Errorf("read as %+v, %v", h, err)
		}
	}
	for _, c := range [][2]string{{"192.0.2.7:1", "[fd00::9]:1"}, {"[::ffff:192.0.2.7]:1", "[fd00::9]:1"}, {"[fd00::9]:1", "192.0.2.7:1"}} {
		if b, err := Header(netip.MustParseAddrPort(c[0]), netip.MustParseAddrPort(c[1])); err == nil {
			t.Errorf("%v: %x", c, b)
		}
	}
	if _, err := Header(netip.AddrPort{}, netip.AddrPort{}); err == nil {
		t.Error("nothing has a header")
	}
}

// A story is a relay, a program behind it, and what ends both.
type story struct {
	t       *testing.T
	at      string
	program net.Listener
	heard   chan *net.TCPConn
}

func tell(t *testing.T, addr string, change func(*Relay)) *story {
	t.Helper()
	a := netip.MustParseAddr(addr)
	program, err := net.Listen("tcp", netip.AddrPortFrom(a, 0).String())
	if err != nil {
		t.Fatal(err)
	}
	listeners, err := Listen(t.Context(), 0, a)
	if err != nil {
		t.Fatal(err)
	}
	r := &Relay{Published: 443, Target: uint16(program.Addr().(*net.TCPAddr).Port)}
	if change != nil {
		change(r)
	}
	s := &story{t, listeners[0].Addr().String(), program, make(chan *net.TCPConn, 10000)}
	ctx, cancel := context.WithCancel(context.Background())
	var done sync.WaitGroup
	done.Go(func() {
		if err := r.Serve(ctx, listeners...); !errors.Is(err, context.Canceled) {
			t.Errorf("Serve: %v", err)
		}
	})
	done.Go(func() {
		defer close(s.heard)
		for {
			c, err := program.Accept()
			if err != nil {
				return
			}
			s.heard <- c.(*net.TCPConn)
		}
	})
	t.Cleanup(func() {
		cancel()
		program.Close()
		done.Wait()
		for c := range s.heard {
			c.Close()
		}
	})
	return s
}

func (s *story) dial() *net.TCPConn {
	s.t.Helper()
	c, err := net.Dial("tcp", s.at)
	if err != nil {
		s.t.Fatal(err)
	}
	c.SetDeadline(time.Now().Add(deadline))
	s.t.Cleanup(func() { c.Close() })
	return c.(*net.TCPConn)
}

// next is the program's end of a connection, with the header read.
func (s *story) next() (*net.TCPConn, *bufio.Reader, *proxyproto.Header) {
	s.t.Helper()
	c := <-s.heard
	c.SetDeadline(time.Now().Add(deadline))
	s.t.Cleanup(func() { c.Close() })
	r := bufio.NewReader(c)
	h, err := proxyproto.Read(r)
	if err != nil {
		s.t.Fatal(err)
	}
	return c, r, h
}

// TestRelay: who asks is said first, and what the client made up of that comes
// after. The client may end what it sends and still be answered.
func TestRelay(t *testing.T) {
	for _, addr := range []string{"127.0.0.1", "::1"} {
		s := tell(t, addr, nil)
		client := s.dial()
		forged, _ := Header(netip.MustParseAddrPort("198.51.100.1:1"), netip.MustParseAddrPort("198.51.100.2:2"))
		client.Write(append(forged, "hello"...))
		client.CloseWrite()
		program, r, h := s.next()
		if h.SourceAddr.String() != client.LocalAddr().String() || h.DestinationAddr.String() != net.JoinHostPort(addr, "443") {
			t.Errorf("%s: the header says %v to %v", addr, h.SourceAddr, h.DestinationAddr)
		}
		if b, err := io.ReadAll(r); err != nil || string(b) != string(forged)+"hello" {
			t.Errorf("%s: the program hears %q, %v", addr, b, err)
		}
		program.Write([]byte("and bye"))
		program.Close()
		if b, err := io.ReadAll(client); err != nil || string(b) != "and bye" {
			t.Errorf("%s: the client hears %q, %v", addr, b, err)
		}
	}
}

func TestPublishedAddress(t *testing.T) {
	at := netip.MustParseAddr("192.0.2.1")
	s := tell(t, "127.0.0.1", func(r *Relay) { r.Address = at })
	s.dial()
	if _, _, h := s.next(); h.DestinationAddr.String() != "192.0.2.1:443" {
		t.Errorf("published at %s, the header says %v", at, h.DestinationAddr)
	}
	s = tell(t, "::1", func(r *Relay) { r.Address = at }) // which cannot be: it goes by the client's family
	s.dial()
	if _, _, h := s.next(); h.DestinationAddr.String() != "[::1]:443" {
		t.Errorf("the header says %v", h.DestinationAddr)
	}
}

// The program ends what it sends first, and goes on hearing.
func TestProgramEndsFirst(t *testing.T) {
	s := tell(t, "127.0.0.1", nil)
	client := s.dial()
	program, r, _ := s.next()
	program.Write([]byte("all"))
	program.CloseWrite()
	if b, err := io.ReadAll(client); err != nil || string(b) != "all" {
		t.Errorf("%q, %v", b, err)
	}
	client.Write([]byte("and more"))
	client.CloseWrite()
	if b, err := io.ReadAll(r); err != nil || string(b) != "and more" {
		t.Errorf("%q, %v", b, err)
	}
}

// Who breaks off breaks off the other.
func TestResets(t *testing.T) {
	s := tell(t, "127.0.0.1", nil)
	client := s.dial()
	_, r, _ := s.next()
	client.SetLinger(0)
	client.Close()
	if _, err := r.ReadByte(); !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("the client broke off, the program hears %v", err)
	}
	client = s.dial()
	program, _, _ := s.next()
	program.SetLinger(0)
	program.Close()
	if _, err := client.Read(make([]byte, 1)); !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("the program broke off, the client hears %v", err)
	}
	s.program.Close()
	c, err := net.Dial("tcp", s.at)
	if err == nil { // or it is over already
		_, err = c.Read(make([]byte, 1))
		c.Close()
	}
	if !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("the program does not listen, the client hears %v", err)
	}
}

// TestSlowReader: nothing is gathered for who does not read, and nothing is lost.
func TestSlowReader(t *testing.T) {
	s := tell(t, "127.0.0.1", nil)
	client := s.dial()
	program, _, _ := s.next()
	const most = 64 << 20 // what kernels keep for two connections is less
	block, sent := make([]byte, 1<<20), 0
	for i := range block {
		block[i] = byte(i >> 8)
	}
	for sent < most {
		program.SetWriteDeadline(time.Now().Add(time.Second))
		n, err := program.Write(block)
		sent += n
		if errors.Is(err, context.DeadlineExceeded) || err != nil && n < len(block) {
			break
		}
	}
	if sent >= most {
		t.Errorf("%d bytes were taken for a client that reads nothing", sent)
	}
	program.CloseWrite()
	got, buf := 0, make([]byte, 1<<20)
	for {
		n, err := client.Read(buf)
		for i, b := range buf[:n] {
			if want := byte((got + i) % len(block) >> 8); b != want {
				t.Fatalf("byte %d is %d and not %d", got+i, b, want)
			}
		}
		if got += n; err == io.EOF {
			break
		} else if err != nil {
			t.Fatal(err)
		}
	}
	if got != sent {
		t.Errorf("%d bytes of %d arrived", got, sent)
	}
}

// TestMany: as many as there may be are served at once; one more waits for a place
// and is served then.
func TestMany(t *testing.T) {
	const most = 1000
	s := tell(t, "127.0.0.1", func(r *Relay) { r.Most = most })
	var clients []*net.TCPConn
	for range most {
		clients = append(clients, s.dial())
	}
	for range most {
		program, _, _ := s.next()
		program.Write([]byte("x"))
	}
	for _, c := range clients {
		if _, err := io.ReadFull(c, make([]byte, 1)); err != nil {
			t.Fatal(err)
		}
	}
	late := s.dial() // into the kernel's queue
	late.Write([]byte("late"))
	late.SetReadDeadline(time.Now().Add(200 * time.Millisecond))
	if _, err := late.Read(make([]byte, 1)); !errors.Is(err, context.DeadlineExceeded) && !strings.Contains(err.Error(), "timeout") {
		t.Errorf("one too many hears %v", err)
	}
	select {
	case <-s.heard:
		t.Fatal("one too many was let in")
	default:
	}
	clients[0].SetLinger(0)
	clients[0].Close()
	_, r, _ := s.next()
	b := make([]byte, len("late"))
	if _, err := io.ReadFull(r, b); err != nil || string(b) != "late" {
		t.Errorf("who waited sends %q, %v", b, err)
	}
}

func TestArguments(t *testing.T) {
	good := "-at 10.255.0.9,fd00::9 -listen 61443 -published 443 -target 8443 -host 192.0.2.1"
	if r, port, at, err := parse(strings.Fields(good)); err != nil || port != 61443 || len(at) != 2 || r.Published != 443 || r.Target != 8443 || r.Address.String() != "192.0.2.1" {
		t.Errorf("%+v %d %v %v", r, port, at, err)
	}
	for _, bad := range []string{"", "-x", "help me", good + " more", strings.Replace(good, "published 443", "published 0", 1), strings.Replace(good, "8443", "65536", 1),
		strings.Replace(good, "fd00::9", "fe80::9%lo", 1), strings.Replace(good, "10.255.0.9", "0.0.0.0", 1), strings.Replace(good, "10.255.0.9,", "10.255.0.9,10.255.0.10,", 1),
		strings.Replace(good, "192.0.2.1", "example.org", 1), good + " -most 0", good + " -most 4097"} {
		if _, _, _, err := parse(strings.Fields(bad)); err == nil || !strings.Contains(err.Error(), "is not for people to start") {
			t.Errorf("%q: %v", bad, err)
		}
	}
}
