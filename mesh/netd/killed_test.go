package netd_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"io"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/redoubt-cluster/redoubt/internal/ident"
	"github.com/redoubt-cluster/redoubt/internal/wire"
	"github.com/redoubt-cluster/redoubt/mesh/netd/fabric"
	"github.com/redoubt-cluster/redoubt/mesh/netd/netdpb"
)

const canary = "CANARY-4c1b77e0"

// netd is killed under traffic. While it is away nothing of it is on the wire in
// clear, and nobody gets through; once it is back and told the peers, traffic
// goes on within a second, over the interface that was there all the time.
func TestMeshWhenNetdIsKilled(t *testing.T) {
	t.Parallel()
	d := newDaemon(t)
	other := filepath.Join(d.dir, "other")
	pin(t, other, func() error { return nil })
	plug(t, d.node(), other)
	d.start()

	ns, err := os.Open(other)
	if err != nil {
		t.Fatal(err)
	}
	defer ns.Close()
	peer, err := fabric.New(fabric.Options{Netns: ns})
	if err != nil {
		t.Fatal(err)
	}
	defer peer.Close()
	if err := peer.Start(); err != nil {
		t.Fatal(err)
	}
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
			t.Fatalf("%s", e.GetMessage())
		}
		return &resp
	}
	ids := [2]string{ident.New(), ident.New()}
	gen := uint64(0)
	declare := func() {
		t.Helper()
		gen++
		here := call(&netdpb.Request{Verb: &netdpb.Request_FabricState{FabricState: &netdpb.FabricStateRequest{}}}).GetFabricState().GetPublicKey()
		there, err := peer.State()
		if err != nil {
			t.Fatal(err)
		}
		request := func(own, key []byte, at int) *netdpb.FabricRequest {
			secret := sha256.Sum256(append(append([]byte("test"), here...), there.GetPublicKey()...))
			host := []string{"1", "2"}
			return &netdpb.FabricRequest{Generation: gen, OwnPublicKey: own, Address: "198.18.0." + host[at] + "/15", ListenPort: 51820, ControlPort: 7946,
				Peers: []*netdpb.FabricPeer{{NodeId: ids[1-at], PublicKey: key, PresharedKey: secret[:], Endpoint: "192.0.2." + host[1-at] + ":51820", Address: "198.18.0." + host[1-at]}}}
		}
		if _, err := peer.Declare(ctx, request(there.GetPublicKey(), here, 1)); err != nil {
			t.Fatal(err)
		}
		call(&netdpb.Request{Verb: &netdpb.Request_Fabric{Fabric: request(here, there.GetPublicKey(), 0)}})
	}
	declare()
	var srv net.Listener
	in(t, other, func() (err error) { srv, err = net.Listen("tcp", "198.18.0.2:7946"); return err })
	defer srv.Close()
	go func() {
		for {
			conn, err := srv.Accept()
			if err != nil {
				return
			}
			io.Copy(conn, io.LimitReader(conn, int64(len(canary))))
			conn.Close()
		}
	}()
	say := func(patience time.Duration) error {
		var failed error
		in(t, d.node(), func() error {
			conn, err := net.DialTimeout("tcp", "198.18.0.2:7946", patience)
			if err == nil {
				defer conn.Close()
				conn.SetDeadline(time.Now().Add(patience))
				if _, err = io.WriteString(conn, canary); err == nil {
					_, err = io.ReadFull(conn, make([]byte, len(canary)))
				}
			}
			failed = err
			return nil
		})
		return failed
	}
	// Not the kernel's own answer, which a filter may not see: every frame that
	// comes in at the other end of the wire.
	ear := -1
	in(t, other, func() (err error) {
		ear, err = unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, unix.ETH_P_ALL>>8|unix.ETH_P_ALL<<8&0xff00)
		return err
	})
	defer unix.Close(ear)
	overheard := func() (frames, clear int) {
		buf := make([]byte, 1<<16)
		for {
			k, from, err := unix.Recvfrom(ear, buf, 0)
			if err != nil {
				return frames, clear
			}
			if l, ok := from.(*unix.SockaddrLinklayer); !ok || l.Pkttype == unix.PACKET_OUTGOING || l.Ifindex != underlayIndex(t, other) {
				continue
			}
			frames++
			if bytes.Contains(buf[:k], []byte(canary)) || bytes.Contains(buf[:k], []byte{198, 18, 0, 2}) {
				clear++
			}
		}
	}
	if err := say(10 * time.Second); err != nil {
		t.Fatalf("%v\n%s", err, d.logs.String())
	}
	device := ifindex(t, d.node())

	d.end(syscall.SIGKILL)
	if err := say(300 * time.Millisecond); err == nil {
		t.Error("reached while netd was away")
	}
	in(t, d.node(), func() error { // as VXLAN would be sent
		conn, err := net.DialUDP("udp4", nil, net.UDPAddrFromAddrPort(netip.MustParseAddrPort("192.0.2.2:4789")))
		if err != nil {
			return err
		}
		defer conn.Close()
		conn.Write([]byte(canary))
		return nil
	})
	d.start()
	c2 := wire.NewClient(d.sock)
	defer c2.Close()
	c = c2
	call(&netdpb.Request{Verb: &netdpb.Request_State{State: &netdpb.StateRequest{}}})
	back := time.Now()
	declare()
	err = say(20 * time.Second)
	if err != nil {
		t.Errorf("no traffic: %v\n%s", err, d.logs.String())
	}
	t.Logf("traffic goes on %s after netd answers", time.Since(back).Round(time.Millisecond))
	if now := ifindex(t, d.node()); now != device {
		t.Errorf("the interface is another one: %d, was %d", now, device)
	}
	frames, clear := overheard()
	if frames == 0 || clear != 0 {
		t.Errorf("of %d frames on the wire %d were in clear", frames, clear)
	}
	if err := d.end(syscall.SIGTERM); err != nil {
		t.Errorf("exit: %v\n%s", err, d.logs.String())
	}
}

// plug connects two namespaces: u0 192.0.2.1 and u0 192.0.2.2.
func plug(t *testing.T, a, b string) {
	t.Helper()
	far, err := os.Open(b)
	if err != nil {
		t.Fatal(err)
	}
	defer far.Close()
	address := func(cidr string) error {
		u, err := netlink.LinkByName("u0")
		if err != nil {
			return err
		}
		addr, err := netlink.ParseAddr(cidr)
		if err != nil {
			return err
		}
		return errors.Join(netlink.AddrAdd(u, addr), netlink.LinkSetUp(u))
	}
	in(t, a, func() error {
		err := netlink.LinkAdd(&netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: "u0", TxQLen: -1}, PeerName: "u0", PeerNamespace: netlink.NsFd(int(far.Fd()))})
		return errors.Join(err, address("192.0.2.1/24"))
	})
	in(t, b, func() error { return address("192.0.2.2/24") })
}

func underlayIndex(t *testing.T, ns string) (index int) {
	return indexOf(t, ns, func(name string) bool { return name == "u0" })
}
func ifindex(t *testing.T, ns string) (index int) { return indexOf(t, ns, fabric.Owns) }

func indexOf(t *testing.T, ns string, is func(name string) bool) (index int) {
	t.Helper()
	in(t, ns, func() error {
		links, err := net.Interfaces()
		for _, l := range links {
			if is(l.Name) {
				index = l.Index
			}
		}
		return err
	})
	return index
}
