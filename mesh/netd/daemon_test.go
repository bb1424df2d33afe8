package netd_test

import (
	"bytes"
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/redoubt-cluster/redoubt/internal/ident"
	"github.com/redoubt-cluster/redoubt/internal/wire"
	"github.com/redoubt-cluster/redoubt/mesh/netd/netdpb"
)

// The daemon with the rights it has in production and no more: its own user,
// two capabilities, its sandbox. It runs in a namespace of its own.
func TestDaemonWithItsOwnRights(t *testing.T) {
	t.Parallel()
	d := newDaemon(t)
	task := ident.New()
	pin(t, filepath.Join(d.dir, "netns", task), func() error { return nil })
	d.start()

	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	c := wire.NewClient(d.sock)
	defer c.Close()
	call := func(req *netdpb.Request) *netdpb.Response {
		t.Helper()
		var resp netdpb.Response
		if err := c.Call(ctx, req, &resp); err != nil {
			t.Fatalf("%v\n%s", err, d.logs.String())
		}
		return &resp
	}
	for _, f := range call(&netdpb.Request{Verb: &netdpb.Request_Probe{Probe: &netdpb.ProbeRequest{}}}).GetProbe().GetFeatures() {
		if !f.GetPresent() {
			t.Errorf("%s: %s", f.GetName(), f.GetDetail())
		}
	}
	apply := &netdpb.ApplyRequest{Generation: 5, BridgeAddress: "172.29.0.1/24", Endpoints: []*netdpb.Endpoint{{
		TaskId: task, Netns: task, Mac: "02:00:00:00:00:02", Address: "172.29.0.2/24", Ports: []*netdpb.PublishedPort{
			{Published: 80, Target: 80}, {Published: 8080, Target: 80}, {Published: 443, Target: 443, HostIp: "127.0.0.1"}}}}}
	for range 2 {
		resp := call(&netdpb.Request{Verb: &netdpb.Request_Apply{Apply: apply}})
		if r := resp.GetApply().GetResults(); len(r) != 1 || r[0].GetError() != "" {
			t.Fatalf("%v", resp)
		}
	}
	apply.Generation = 4
	if resp := call(&netdpb.Request{Verb: &netdpb.Request_Apply{Apply: apply}}); !strings.Contains(resp.GetError().GetMessage(), "older than 5") {
		t.Errorf("%v", resp)
	}
	if s := call(&netdpb.Request{Verb: &netdpb.Request_State{State: &netdpb.StateRequest{}}}).GetState(); s.GetGeneration() != 5 {
		t.Errorf("%v", s)
	}
	if resp := call(&netdpb.Request{}); resp.GetError() == nil {
		t.Errorf("no verb: %v", resp)
	}
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", d.cmd.Process.Pid))
	if err != nil {
		t.Fatal(err)
	}
	for _, line := range []string{"CapEff:\t0000000000201000", "CapPrm:\t0000000000201000", "NoNewPrivs:\t1", "Seccomp:\t2"} {
		if !bytes.Contains(status, []byte(line+"\n")) {
			t.Errorf("%q is not in\n%s", line, status)
		}
	}
	if err := d.end(syscall.SIGTERM); err != nil {
		t.Errorf("exit: %v\n%s", err, d.logs.String())
	}

	// The state outlived it, and --cleanup takes it away.
	in(t, d.node(), func() error {
		if _, err := net.InterfaceByName("rdt0"); err != nil {
			t.Errorf("the bridge went with the daemon: %v", err)
		}
		if out, err := exec.Command(d.bin, "--cleanup").CombinedOutput(); err != nil || len(out) > 0 {
			t.Errorf("%v: %s", err, out)
		}
		if _, err := net.InterfaceByName("rdt0"); err == nil {
			t.Error("the bridge is still there")
		}
		return nil
	})
}

// pin makes a network namespace, bound to path, and runs fn in it.
func pin(t *testing.T, path string, fn func() error) {
	t.Helper()
	if err := os.WriteFile(path, nil, 0o644); err != nil {
		t.Fatal(err)
	}
	onThread(t, func() error {
		if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
			return err
		}
		if err := unix.Mount("/proc/thread-self/ns/net", path, "", unix.MS_BIND, ""); err != nil {
			return err
		}
		t.Cleanup(func() { unix.Unmount(path, unix.MNT_DETACH) })
		return fn()
	})
}

func in(t *testing.T, path string, fn func() error) {
	t.Helper()
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	onThread(t, func() error {
		if err := unix.Setns(int(f.Fd()), unix.CLONE_NEWNET); err != nil {
			return err
		}
		return fn()
	})
}

func onThread(t *testing.T, fn func() error) {
	t.Helper()
	done := make(chan error, 1)
	go func() {
		runtime.LockOSThread() // the thread ends here
		done <- fn()
	}()
	if err := <-done; err != nil {
		t.Fatal(err)
	}
}
