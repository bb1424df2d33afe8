package main

import (
	"bytes"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/miekg/dns"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/redoubt-cluster/redoubt/internal/ident"
	"github.com/redoubt-cluster/redoubt/internal/wire"
	"github.com/redoubt-cluster/redoubt/mesh/named/hand"
	"github.com/redoubt-cluster/redoubt/mesh/named/namedpb"
)

// namedUID is a user that is nobody else.
const namedUID = 54323

// The test binary is the daemon when it is started as one.
func TestMain(m *testing.M) {
	if os.Getenv("LISTEN_FDS") != "" {
		os.Setenv("LISTEN_PID", strconv.Itoa(os.Getpid()))
		main()
	}
	os.Exit(m.Run())
}

// inNew runs functions in a network namespace of the test's own.
func inNew(t *testing.T) hand.In {
	calls, done := make(chan func() error), make(chan error)
	go func() {
		runtime.LockOSThread() // the thread ends here, and the namespace with it
		err := unix.Unshare(unix.CLONE_NEWNET)
		done <- err
		for fn := range calls {
			done <- fn()
		}
		close(done)
	}()
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { close(calls); <-done })
	in := func(fn func() error) error { calls <- fn; return <-done }
	if err := in(func() error {
		h, err := netlink.NewHandle()
		if err != nil {
			return err
		}
		defer h.Close()
		lo, err := h.LinkByName("lo")
		if err != nil {
			return err
		}
		return h.LinkSetUp(lo)
	}); err != nil {
		t.Fatal(err)
	}
	return in
}

// echo is a resolver that answers every question for an address with one.
func echo(t *testing.T, addr string) string {
	pc, err := net.ListenPacket("udp", addr)
	if err != nil {
		t.Fatal(err)
	}
	at := pc.LocalAddr().String()
	l, err := net.Listen("tcp", at)
	if err != nil {
		t.Fatal(err)
	}
	answer := dns.HandlerFunc(func(w dns.ResponseWriter, q *dns.Msg) {
		r := new(dns.Msg).SetReply(q)
		if _, udp := w.RemoteAddr().(*net.UDPAddr); udp && strings.HasPrefix(strings.ToLower(q.Question[0].Name), "long") {
			r.Truncated = true
		} else {
			r.Answer = []dns.RR{&dns.A{Hdr: dns.RR_Header{Name: q.Question[0].Name, Rrtype: dns.TypeA, Class: 1, Ttl: 9}, A: net.IPv4(192, 0, 2, 7)}}
		}
		w.WriteMsg(r)
	})
	for _, srv := range []*dns.Server{{PacketConn: pc, Handler: answer}, {Listener: l, Handler: answer}} {
		ready, ended := make(chan struct{}), make(chan error)
		srv.NotifyStartedFunc = func() { close(ready) }
		go func() { ended <- srv.ActivateAndServe() }()
		<-ready
		t.Cleanup(func() { srv.Shutdown(); <-ended })
	}
	return at
}

// The real daemon in its real sandbox, under a user of its own: answers from
// sockets that were handed over, forwards over UDP and TCP, IPv4 and IPv6, and
// ends cleanly.
func TestDaemon(t *testing.T) {
	dir, err := os.MkdirTemp("", "named")
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(dir)
	config := filepath.Join(dir, "config.yaml")
	if err := os.WriteFile(config, []byte("log:\n  level: debug\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(dir, 0o711); err != nil {
		t.Fatal(err)
	}
	var files []*os.File
	for _, name := range []string{"named", "named-net"} {
		l, err := net.ListenUnix("unix", &net.UnixAddr{Name: filepath.Join(dir, name), Net: "unix"})
		if err != nil {
			t.Fatal(err)
		}
		defer l.Close()
		f, err := l.File()
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		files = append(files, f)
	}
	var log bytes.Buffer
	me := strconv.Itoa(os.Getuid())
	cmd := exec.Command("/proc/self/exe", "--config", config, "--data-dir", dir, "--run-dir", dir, "--control-user", me, "--netd-user", me)
	cmd.Env = []string{"LISTEN_FDS=2", "LISTEN_FDNAMES=named:named-net"}
	cmd.ExtraFiles, cmd.Stderr = files, &log
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: namedUID, Gid: namedUID}, Pdeathsig: syscall.SIGKILL}
	runtime.LockOSThread() // which the parent-death signal follows
	defer runtime.UnlockOSThread()
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() {
		cmd.Process.Kill()
		cmd.Wait()
		if t.Failed() {
			t.Log(log.String())
		}
	}()

	in, task, network := inNew(t), ident.New(), ident.New()
	tell := wire.NewClient(filepath.Join(dir, "named"))
	defer tell.Close()
	declare := func(g uint64, upstream string) {
		t.Helper()
		var resp namedpb.Response
		err := tell.Call(t.Context(), &namedpb.Request{Verb: &namedpb.Request_Declare{Declare: &namedpb.DeclareRequest{Generation: g,
			Resolvers: &namedpb.Resolvers{Upstreams: []string{upstream}},
			Networks:  []*namedpb.Network{{Id: network, Services: []*namedpb.Service{{Name: "web", Vips: []string{"10.200.1.200"}}}}},
			Sandboxes: []*namedpb.Sandbox{{TaskId: task, NetworkIds: []string{network}, Forward: true}}}}}, &resp)
		if err != nil || resp.GetError() != nil {
			t.Fatalf("declare: %v %v", err, resp.GetError())
		}
	}
	give(t, filepath.Join(dir, "named-net"), task, in)
	for i, addr := range []string{"127.0.0.1:0", "[::1]:0"} {
		declare(uint64(i+1), echo(t, addr))
		for _, network := range []string{"udp", "tcp"} {
			for name, want := range map[string]string{"web.": "10.200.1.200", "example.org.": "192.0.2.7", "long.example.org.": "192.0.2.7"} {
				if got := ask(t, in, network, name); got != want {
					t.Errorf("%s %s by %s: %q, want %s", network, name, addr, got, want)
				}
			}
		}
	}
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", cmd.Process.Pid))
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"NoNewPrivs:\t1", "Seccomp:\t2", "CapEff:\t0000000000000000", "CapPrm:\t0000000000000000"} {
		if !strings.Contains(string(status), want) {
			t.Errorf("its status does not have %q", want)
		}
	}
	cmd.Process.Signal(syscall.SIGTERM)
	if err := cmd.Wait(); err != nil {
		t.Errorf("on SIGTERM: %v", err)
	}
	if !strings.Contains(log.String(), "landlock: ABI") || !strings.Contains(log.String(), "minimal allow-list, connections") {
		t.Error("its protections are not in the log")
	}
}

// give hands over sockets by the wire itself.
func give(t *testing.T, path, task string, in hand.In) {
	t.Helper()
	c, err := net.Dial("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	c.SetDeadline(time.Now().Add(20 * time.Second))
	var hello namedpb.Hello
	if err := wire.Read(c, &hello); err != nil {
		t.Fatal(err)
	}
	var files []*os.File
	if err := in(func() error {
		pc, err := net.ListenPacket("udp4", "127.0.0.11:53")
		if err != nil {
			return err
		}
		defer pc.Close()
		l, err := net.Listen("tcp4", "127.0.0.11:53")
		if err != nil {
			return err
		}
		defer l.Close()
		u, err := pc.(*net.UDPConn).File()
		if err != nil {
			return err
		}
		s, err := l.(*net.TCPListener).File()
		files = []*os.File{u, s}
		return err
	}); err != nil {
		t.Fatal(err)
	}
	err = wire.WriteFiles(c.(*net.UnixConn), &namedpb.Hand{Verb: &namedpb.Hand_Give{Give: &namedpb.Give{TaskId: task}}}, files...)
	for _, f := range files {
		f.Close()
	}
	var handed namedpb.Handed
	if err == nil {
		err = wire.Read(c, &handed)
	}
	if err != nil || handed.GetError() != "" {
		t.Fatalf("give: %v %s", err, handed.GetError())
	}
}

func ask(t *testing.T, in hand.In, network, name string) string {
	t.Helper()
	var c net.Conn
	if err := in(func() (err error) { c, err = net.Dial(network, "127.0.0.11:53"); return err }); err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	r, _, err := (&dns.Client{Net: network, Timeout: 20 * time.Second}).ExchangeWithConn(new(dns.Msg).SetQuestion(name, dns.TypeA), &dns.Conn{Conn: c})
	if err != nil || len(r.Answer) != 1 {
		t.Fatalf("%s %s: %v %v", network, name, r, err)
	}
	return r.Answer[0].(*dns.A).A.String()
}
