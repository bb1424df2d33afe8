package netd

import (
	"context"
	"errors"
	"net"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/redoubt-cluster/redoubt/internal/wire"
	"github.com/redoubt-cluster/redoubt/mesh/netd/netdpb"
)

func (w *world) listen(uid int) (path string) {
	w.t.Helper()
	path = filepath.Join(w.t.TempDir(), "s")
	l, err := net.Listen("unix", path)
	if err != nil {
		w.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- w.n.Serve(ctx, l, uint32(uid)) }()
	w.t.Cleanup(func() {
		cancel()
		if err := <-ended; !errors.Is(err, context.Canceled) {
			w.t.Errorf("Serve: %v", err)
		}
	})
	return path
}

func TestOtherUsersAreRefused(t *testing.T) {
	w := newWorld(t)
	c := wire.NewClient(w.listen(os.Getuid() + 1))
	defer c.Close()
	var resp netdpb.Response
	req := &netdpb.Request{Verb: &netdpb.Request_State{State: &netdpb.StateRequest{}}}
	if err := c.Call(t.Context(), req, &resp); err == nil {
		t.Errorf("answered: %v", &resp)
	}
}

// A connection that says nothing, or nonsense, harms nobody else and does not
// hold up the end.
func TestServeSurvivesBadClients(t *testing.T) {
	w := newWorld(t)
	path := w.listen(os.Getuid())
	for _, said := range []string{"", "\xff\xff\xff\xff", "\x00\x00\x00\x02\xff\xff"} {
		conn, err := net.Dial("unix", path)
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		if _, err := conn.Write([]byte(said)); err != nil {
			t.Fatal(err)
		}
		if said == "" {
			continue
		}
		conn.SetReadDeadline(time.Now().Add(deadline))
		if _, err := conn.Read(make([]byte, 1)); err == nil || errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("%q: the connection was not closed (%v)", said, err)
		}
	}
	c := wire.NewClient(path)
	defer c.Close()
	a := w.box(1)
	var resp netdpb.Response
	if err := c.Call(t.Context(), &netdpb.Request{Verb: &netdpb.Request_Apply{Apply: w.request(a)}}, &resp); err != nil {
		t.Fatal(err)
	}
	if r := resp.GetApply().GetResults(); len(r) != 1 || r[0].GetError() != "" {
		t.Errorf("%v", &resp)
	}
}

// A flow of datagrams that began before its port was published is translated
// from then on.
func TestFlowThatCameTooEarly(t *testing.T) {
	w := newWorld(t)
	a := w.box(1)
	w.serve(a.ns, "udp", "0.0.0.0:53")
	w.apply(a)
	var c net.Conn
	w.in(w.outside, func() (err error) {
		c, err = net.DialUDP("udp", &net.UDPAddr{Port: 4000}, &net.UDPAddr{IP: net.ParseIP(nodeIP), Port: 5353})
		return err
	})
	defer c.Close()
	c.SetDeadline(time.Now().Add(deadline))
	say := func() error {
		if _, err := c.Write([]byte("?")); err != nil {
			return err
		}
		_, err := c.Read(make([]byte, 64))
		return err
	}
	if err := say(); err == nil {
		t.Fatal("answered before the port was published")
	}
	a.Ports = append(a.Ports, udpPort(5353, 53))
	w.apply(a)
	if err := say(); err != nil {
		t.Errorf("after: %v", err)
	}
}
