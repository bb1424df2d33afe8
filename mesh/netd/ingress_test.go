package netd_test

import (
	"context"
	"net"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/redoubt-cluster/redoubt/internal/ident"
	"github.com/redoubt-cluster/redoubt/internal/wire"
	"github.com/redoubt-cluster/redoubt/mesh/netd/netdpb"
)

// The daemon as an entry node, with the rights it has in production: a privileged
// port, a client outside, a container beside, and the ports of both modes in one
// book.
func TestIngressOfTheDaemon(t *testing.T) {
	t.Parallel()
	d := newDaemon(t)
	other := filepath.Join(d.dir, "other")
	pin(t, other, func() error { return nil })
	plug(t, d.node(), other)
	pin(t, filepath.Join(d.dir, "netns", "net-ingress"), func() error { return nil })
	task, beside := ident.New(), ident.New()
	for _, x := range []string{task, beside} {
		pin(t, filepath.Join(d.dir, "netns", x), func() error { return nil })
	}
	d.start()
	ctx, cancel := context.WithTimeout(t.Context(), 60*time.Second)
	defer cancel()
	c := wire.NewClient(d.sock)
	defer c.Close()
	call := func(req *netdpb.Request) *netdpb.Response {
		t.Helper()
		var resp netdpb.Response
		if err := c.Call(ctx, req, &resp); err != nil {
			t.Fatalf("%v\n%s", err, d.logs.String())
		}
		if e := resp.GetError(); e != nil {
			t.Fatalf("%s\n%s", e.GetMessage(), d.logs.String())
		}
		return &resp
	}
	apply := &netdpb.ApplyRequest{Generation: 1, BridgeAddress: "172.29.0.1/24", Pools: &netdpb.Pools{Prefixes: []string{"10.200.0.0/13"}}, Endpoints: []*netdpb.Endpoint{
		{TaskId: task, Netns: task, Mac: "02:00:00:00:00:02", Address: "172.29.0.2/24", Ports: []*netdpb.PublishedPort{{Published: 81, Target: 80}, {Published: 8081, Target: 80}}},
		{TaskId: beside, Netns: beside, Mac: "02:00:00:00:00:03", Address: "172.29.0.3/24"}}}
	for _, r := range call(&netdpb.Request{Verb: &netdpb.Request_Apply{Apply: apply}}).GetApply().GetResults() {
		if r.GetError() != "" {
			t.Fatal(r)
		}
	}
	entry, pools := true, &netdpb.Pools{Prefixes: []string{"10.200.0.0/13", "10.255.0.0/16", "198.18.0.0/15"}}
	req := &netdpb.IngressRequest{Generation: 1, Subnet: "10.255.0.0/16", Netns: "net-ingress", Pools: pools, Services: []*netdpb.IngressService{{Entry: &entry,
		ServiceId: ident.New(), Vni: 5001, Ports: []*netdpb.IngressPort{{Published: 80, Target: 80}, {Published: 81, Target: 80}, {Published: 8081, Target: 80}, {Published: 8080, Target: 80}},
		Endpoints: []*netdpb.IngressEndpoint{{TaskId: task, Address: "10.255.0.1", Netns: task, Serving: true}}}}}
	bad := call(&netdpb.Request{Verb: &netdpb.Request_Ingress{Ingress: req}}).GetIngress().GetResults()
	if len(bad) != 2 || bad[0].GetPublished() != 81 || bad[1].GetPublished() != 8081 || !strings.Contains(bad[0].GetError(), "published on this node already") {
		t.Errorf("%v", bad)
	}
	var srv net.Listener
	in(t, filepath.Join(d.dir, "netns", task), func() (err error) { srv, err = net.Listen("tcp4", ":80"); return err })
	defer srv.Close()
	go func() {
		for {
			conn, err := srv.Accept()
			if err != nil {
				return
			}
			host, _, _ := net.SplitHostPort(conn.RemoteAddr().String())
			conn.Write([]byte(host))
			conn.Close()
		}
	}()
	for _, x := range []struct{ from, to, sees string }{
		{other, "192.0.2.1:80", "192.0.2.2"},
		{other, "192.0.2.1:8080", "192.0.2.2"},
		{other, "192.0.2.1:81", "192.0.2.2"},
		{d.node(), "127.0.0.1:80", "10.255.255.251"},
		{filepath.Join(d.dir, "netns", beside), "192.0.2.1:80", "10.255.255.251"},
	} {
		var saw string
		in(t, x.from, func() error {
			conn, err := net.DialTimeout("tcp", x.to, 20*time.Second)
			if err != nil {
				t.Errorf("%s: %v", x.to, err)
				return nil
			}
			defer conn.Close()
			conn.SetDeadline(time.Now().Add(20 * time.Second))
			buf := make([]byte, 100)
			n, _ := conn.Read(buf)
			saw = string(buf[:n])
			return nil
		})
		if saw != x.sees {
			t.Errorf("%s from %s: the task saw %q, want %s", x.to, filepath.Base(x.from), saw, x.sees)
		}
	}
	s := call(&netdpb.Request{Verb: &netdpb.Request_IngressState{IngressState: &netdpb.IngressStateRequest{}}}).GetIngressState()
	if !s.GetEntry() || s.GetLocalEndpoints() != 1 || s.GetServices() != 1 || len(s.GetResults()) != 2 {
		t.Errorf("%v", s)
	}
	if t.Failed() {
		t.Log(d.logs.String())
	}
	in(t, d.node(), func() error {
		if err := d.cmd.Process.Kill(); err != nil {
			return err
		}
		<-d.exited
		d.cmd = nil
		if out, err := exec.Command(d.bin, "--cleanup", "--run-dir", d.dir).CombinedOutput(); err != nil || len(out) > 0 {
			t.Errorf("%v: %s", err, out)
		}
		if _, err := net.InterfaceByName("rdti0"); err == nil {
			t.Error("the way in is still there")
		}
		return nil
	})
}
