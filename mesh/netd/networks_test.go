package netd_test

import (
	"context"
	"fmt"
	"io"
	"net"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/redoubt-cluster/redoubt/internal/ident"
	"github.com/redoubt-cluster/redoubt/internal/wire"
	"github.com/redoubt-cluster/redoubt/mesh/netd/netdpb"
)

// Networks by the daemon with the rights it has in production: two tasks on one,
// which speak while it is killed and after it is back; then --cleanup.
func TestNetworksOfTheDaemon(t *testing.T) {
	t.Parallel()
	d := newDaemon(t)
	id, service := ident.New(), ident.New()
	task := []string{ident.New(), ident.New()}
	for _, name := range append([]string{"net-" + id}, task...) {
		pin(t, filepath.Join(d.dir, "netns", name), func() error { return nil })
	}
	d.start()
	ctx, cancel := context.WithTimeout(t.Context(), 60*time.Second)
	defer cancel()
	var c *wire.Client
	call := func(req *netdpb.Request) *netdpb.Response {
		t.Helper()
		var resp netdpb.Response
		if err := c.Call(ctx, req, &resp); err != nil {
			t.Fatalf("%v\n%s", err, d.logs.String())
		}
		if e := resp.GetError(); e != nil {
			t.Fatalf("%s", e.GetMessage())
		}
		return &resp
	}
	declare := func() {
		t.Helper()
		c = wire.NewClient(d.sock)
		t.Cleanup(func() { c.Close() })
		key := call(&netdpb.Request{Verb: &netdpb.Request_FabricState{FabricState: &netdpb.FabricStateRequest{}}}).GetFabricState().GetPublicKey()
		call(&netdpb.Request{Verb: &netdpb.Request_Fabric{Fabric: &netdpb.FabricRequest{Generation: 1, OwnPublicKey: key, Address: "198.18.0.1/15"}}})
		n := &netdpb.OverlayNetwork{Id: id, Vni: 77, Netns: "net-" + id,
			Subnets: []*netdpb.OverlaySubnet{{Subnet: "10.200.0.0/24", Gateway: "10.200.0.1"}, {Subnet: "fd52::/64", Gateway: "fd52::1"}}}
		for i, task := range task {
			n.Endpoints = append(n.Endpoints, &netdpb.OverlayEndpoint{TaskId: task, ServiceId: service, Netns: task, Serving: true,
				Addresses: []string{fmt.Sprintf("10.200.0.%d", i+2), fmt.Sprintf("fd52::%d", i+2)}})
		}
		resp := call(&netdpb.Request{Verb: &netdpb.Request_Overlay{Overlay: &netdpb.OverlayRequest{Generation: 1, MeshAddress: "198.18.0.1", Networks: []*netdpb.OverlayNetwork{n}}}}).GetOverlay()
		if len(resp.GetNetworks()) != 0 || len(resp.GetEndpoints()) != 2 || resp.GetEndpoints()[0].GetError()+resp.GetEndpoints()[1].GetError() != "" {
			t.Fatalf("%v\n%s", resp, d.logs.String())
		}
	}
	declare()
	var l net.Listener
	in(t, filepath.Join(d.dir, "netns", task[1]), func() (err error) { l, err = net.Listen("tcp", ":7000"); return err })
	var accepting sync.WaitGroup
	defer accepting.Wait()
	defer l.Close()
	accepting.Go(func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			conn.Close()
		}
	})
	reaches := func(when string) {
		t.Helper()
		in(t, filepath.Join(d.dir, "netns", task[0]), func() error {
			for _, addr := range []string{"10.200.0.3:7000", "[fd52::3]:7000"} {
				conn, err := net.DialTimeout("tcp", addr, 20*time.Second)
				if err != nil {
					t.Errorf("%s: %v", when, err)
					continue
				}
				conn.Close()
			}
			return nil
		})
	}
	reaches("at first")
	d.end(syscall.SIGKILL)
	reaches("without netd")
	d.start()
	reaches("with another netd")
	declare()
	reaches("declared again")
	asked, err := net.Dial("unix", d.wg())
	if err != nil {
		t.Fatal(err)
	}
	defer asked.Close()
	if _, err := io.WriteString(asked, "get=1\n\n"); err != nil {
		t.Fatal(err)
	}
	if said, err := io.ReadAll(asked); err != nil || !strings.HasPrefix(string(said), "listen_port=") || !strings.HasSuffix(string(said), "errno=0\n\n") || strings.Contains(string(said), "private") {
		t.Errorf("wg is told %q, %v", said, err)
	}
	s := call(&netdpb.Request{Verb: &netdpb.Request_OverlayState{OverlayState: &netdpb.OverlayStateRequest{}}}).GetOverlayState()
	if s.GetGeneration() != 1 || len(s.GetNetworks()) != 1 || s.GetNetworks()[0].GetError() != "" || s.GetNetworks()[0].GetLocalEndpoints() != 2 {
		t.Errorf("%v", s)
	}
	if err := d.end(syscall.SIGTERM); err != nil {
		t.Errorf("exit: %v\n%s", err, d.logs.String())
	}
	in(t, d.node(), func() error {
		if out, err := exec.Command(d.bin, "--cleanup", "--run-dir", d.dir).CombinedOutput(); err != nil || len(out) > 0 {
			t.Errorf("%v: %s", err, out)
		}
		return nil
	})
	for _, name := range []string{"net-" + id, task[0]} {
		in(t, filepath.Join(d.dir, "netns", name), func() error {
			all, err := net.Interfaces()
			if err != nil || len(all) != 1 {
				t.Errorf("%s has %v (%v)", name, all, err)
			}
			return nil
		})
	}
}
