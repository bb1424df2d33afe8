package rund

import (
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/redoubt-cluster/redoubt/internal/ident"
	"github.com/redoubt-cluster/redoubt/scheduler/rund/cni"
	"github.com/redoubt-cluster/redoubt/scheduler/rund/rundpb"
)

// cniHelper is this program as the helper, with a network namespace for the node,
// so that bridges are not the machine's.
func cniHelper(file string) error {
	const done = "RUND_TEST_NETNS"
	if os.Getenv(done) == "" {
		runtime.LockOSThread()
		if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
			return err
		}
		return syscall.Exec("/proc/self/exe", os.Args, append(os.Environ(), done+"=1"))
	}
	b, err := os.ReadFile(file)
	if err != nil {
		return err
	}
	var o cni.Options
	if err := json.Unmarshal(b, &o); err != nil {
		return err
	}
	o.Log = slog.New(slog.NewTextHandler(os.Stderr, nil))
	return cni.Helper(o)
}

const localConflist = `{"cniVersion":"1.0.0","name":"br","plugins":[{"type":"bridge","bridge":"cbr0",
  "ipam":{"type":"host-local","dataDir":%q,"ranges":[[{"subnet":"10.77.0.0/28"}]]}}]}`

// cniNode is a node with a conflist of Debian's bridge and host-local.
func cniNode(t *testing.T) (n *node, leases string) {
	dir := t.TempDir()
	leases = filepath.Join(dir, "lib")
	c := cni.Config{Conflists: filepath.Join(dir, "cni.d"), PluginDir: "/usr/lib/cni", Paths: []string{leases}, Plugins: map[string]string{}}
	for _, p := range []string{"bridge", "host-local"} {
		b, err := os.ReadFile(filepath.Join(c.PluginDir, p))
		if err != nil {
			t.Fatal(err)
		}
		c.Plugins[p] = fmt.Sprintf("%x", sha256.Sum256(b))
	}
	if err := os.MkdirAll(c.Conflists, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(c.Conflists, "br.conflist"), fmt.Appendf(nil, localConflist, leases), 0o600); err != nil {
		t.Fatal(err)
	}
	options := filepath.Join(dir, "options")
	n = newNodeWith(t, func(n *node) *cni.Client {
		b, err := json.Marshal(cni.Options{Config: c, Netns: filepath.Join(n.runDir, "netns"), State: filepath.Join(dir, "state"), Bin: filepath.Join(dir, "bin"), RetryMin: 10 * time.Millisecond})
		if err == nil {
			err = os.WriteFile(options, b, 0o600)
		}
		if err != nil {
			t.Fatal(err)
		}
		client, err := cni.Launch(options)
		if err != nil {
			t.Fatal(err)
		}
		return client
	})
	return n, leases
}

func on(d *rundpb.TaskDesired, driver string, options map[string]string) *rundpb.TaskDesired {
	d.LocalNetworks = append(d.LocalNetworks, &rundpb.LocalNetwork{Id: ident.New(), Driver: driver, Options: options, Index: uint32(len(d.LocalNetworks))})
	return d
}

func conflist(name string) map[string]string { return map[string]string{"conflist": name} }

// A container on a CNI network has its interface before its program starts, its
// address is told, survives a restart of rund, and is free once the task ended.
func TestLocalNetworks(t *testing.T) {
	n, leases := cniNode(t)
	a, b := on(n.desired(), driverCNI, conflist("br")), on(n.desired("cat", "/proc/net/dev", "/proc/net/if_inet6"), driverCNI, conflist("br"))
	n.apply(a, b)
	at := n.awaitPhase(a.GetTaskId(), rundpb.Phase_PHASE_RUNNING).GetLocalAttachments()
	if len(at) != 1 || at[0].GetInterface() != "cni0" || !strings.HasPrefix(at[0].GetAddresses()[0], "10.77.0.") || at[0].GetNetworkId() != a.LocalNetworks[0].Id {
		t.Fatalf("%v", at)
	}
	// Its loopback interface is up, too.
	if ended := n.awaitPhase(b.GetTaskId(), rundpb.Phase_PHASE_EXITED); ended.GetLocalAttachments() != nil {
		t.Errorf("an ended task is at %v", ended.GetLocalAttachments())
	}
	n.awaitLog(b.GetTaskId(), "cni0:")
	n.awaitLog(b.GetTaskId(), "00000000000000000000000000000001 01 80 10 80       lo")
	hosts, err := os.ReadFile(n.server.taskDir(a.GetTaskId()).hosts())
	address, _, _ := strings.Cut(at[0].GetAddresses()[0], "/")
	if err != nil || !strings.Contains(string(hosts), address+"\t"+a.GetTaskId()[:12]) {
		t.Errorf("its own name is told by %q %v", hosts, err)
	}
	probe, err := n.client.Probe(t.Context(), &rundpb.ProbeRequest{})
	if err != nil {
		t.Fatal(err)
	}
	said := map[string]string{}
	for _, f := range probe.GetFeatures() {
		if f.GetPresent() {
			said[f.GetName()] = f.GetDetail()
		}
	}
	if said["cni:br"] != "plugins bridge, host-local" {
		t.Errorf("the node says %v", said)
	}
	if _, ok := said["net:none"]; !ok {
		t.Errorf("the node says %v", said)
	}
	n.restart()
	again := n.await(a.GetTaskId(), "attachments", func(a *rundpb.TaskActual) bool { return len(a.GetLocalAttachments()) == 1 }).GetLocalAttachments()
	if again[0].GetAddresses()[0] != at[0].GetAddresses()[0] {
		t.Errorf("after the restart %v, before %v", again, at)
	}
	n.apply()
	n.awaitEmpty()
	if left, err := filepath.Glob(filepath.Join(leases, "br", "10.*")); err != nil || len(left) > 0 {
		t.Errorf("addresses are still held: %v %v", left, err)
	}
}

// What this node cannot do is refused in a line that says what to do.
func TestLocalNetworksRefused(t *testing.T) {
	n, _ := cniNode(t)
	twice := on(on(n.desired(), driverNone, nil), driverCNI, conflist("br"))
	for want, d := range map[string]*rundpb.TaskDesired{
		"there is no ":                  on(n.desired(), driverCNI, conflist("other")),
		"no plain name":                 on(n.desired(), driverCNI, conflist("../br")),
		"needs the option conflist":     on(n.desired(), driverCNI, nil),
		"unknown to driver cni":         on(n.desired(), driverCNI, map[string]string{"conflist": "br", "x": "y"}),
		"cannot be made on a node":      on(n.desired(), "host", nil),
		"is on no other: leave one out": twice,
		"or id or index is given twice": {TaskId: ident.New(), Phase: rundpb.Phase_PHASE_RUNNING, Spec: n.desired().Spec, LocalNetworks: []*rundpb.LocalNetwork{{Id: "x", Driver: driverNone}}},
		"at most 32 are allowed":        {TaskId: ident.New(), Phase: rundpb.Phase_PHASE_RUNNING, Spec: n.desired().Spec, LocalNetworks: make([]*rundpb.LocalNetwork, 33)},
	} {
		n.apply(d)
		a := n.awaitPhase(d.GetTaskId(), rundpb.Phase_PHASE_FAILED)
		if !strings.Contains(a.GetError(), want) || !a.GetRejected() {
			t.Errorf("%q (rejected: %v), want %q", a.GetError(), a.GetRejected(), want)
		}
	}
	n.apply()
	n.awaitEmpty()
}

// none is a loopback interface and nothing else; a node without plugins has it,
// and says that it has no CNI.
func TestNone(t *testing.T) {
	n := newNode(t)
	d := on(n.desired("cat", "/proc/net/dev", "/proc/net/if_inet6"), driverNone, nil)
	c := on(n.desired(), driverCNI, conflist("br"))
	n.apply(d, c)
	n.awaitPhase(d.GetTaskId(), rundpb.Phase_PHASE_EXITED)
	n.awaitLog(d.GetTaskId(), "00000000000000000000000000000001 01 80 10 80       lo")
	if a := n.awaitPhase(c.GetTaskId(), rundpb.Phase_PHASE_FAILED); !strings.Contains(a.GetError(), "pin plugins under rund.cni.plugins") || !a.GetRejected() {
		t.Errorf("%q", a.GetError())
	}
}
