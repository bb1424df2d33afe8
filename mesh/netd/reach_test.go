package netd

import (
	"encoding/binary"
	"net"
	"net/netip"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"go.yaml.in/yaml/v3"

	"github.com/redoubt-cluster/redoubt/internal/portname"
	"github.com/redoubt-cluster/redoubt/mesh/netd/netdpb"
)

// What containers send to nodes of the cluster is for published ports, or gets
// nowhere; all else gets where it got before.
func TestContainersReachPublishedPortsOfNodes(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	a := w.box(1)
	for _, ns := range []*os.File{w.outside, w.other} {
		for _, p := range []string{"22", "53", "111", "8080"} {
			w.serve(ns, "tcp", "0.0.0.0:"+p)
			w.serve(ns, "udp", "0.0.0.0:"+p)
		}
	}
	declare := func(r *netdpb.Reach) {
		t.Helper()
		req := w.request(a)
		req.Reach = r
		w.mustApply(req)
	}
	all := []string{"tcp 22", "udp 22", "tcp 53", "udp 53", "tcp 111", "udp 111", "tcp 8080", "udp 8080"}
	// at says which of a host's ports a container reaches; the node itself does all.
	at := func(host string, open ...string) {
		t.Helper()
		var wg sync.WaitGroup
		for _, p := range all {
			network, number, _ := strings.Cut(p, " ")
			wg.Go(func() {
				if w.reaches(w.node, network, host+":"+number, ""); slices.Contains(open, p) {
					w.reaches(a.ns, network, host+":"+number, "")
				} else {
					w.cannotReach(a.ns, network, host+":"+number)
				}
			})
		}
		wg.Wait()
	}

	declare(nil)
	at(outsideIP, all...)
	if n := w.n.State().GetStrayed(); n != 0 {
		t.Errorf("%d packets dropped without a rule", n)
	}
	if !w.pings(a.ns, outsideIP, 1) {
		t.Error("the host outside does not answer echo requests")
	}

	reach := &netdpb.Reach{Nodes: []string{outsideIP, "2001:db8::9"}, Published: []string{"tcp/8080", "udp/111"}}
	var flow net.Conn // from before the rule: it goes on
	w.in(a.ns, func() (err error) { flow, err = net.Dial("udp", outsideIP+":22"); return err })
	defer flow.Close()
	asked := func() {
		t.Helper()
		flow.SetDeadline(time.Now().Add(deadline))
		_, err := flow.Write([]byte("?"))
		if err == nil {
			_, err = flow.Read(make([]byte, 64))
		}
		if err != nil {
			t.Errorf("a flow from before: %v", err)
		}
	}
	asked()
	declare(reach)
	asked()
	at(outsideIP, "tcp 8080", "udp 111")
	at(otherIP, all...)
	if w.pings(a.ns, outsideIP, 2) {
		t.Error("a node answers a container's echo requests")
	}
	counted := w.n.State().GetStrayed()
	if counted < 7 {
		t.Errorf("%d packets counted, of seven at least", counted)
	}

	// Name servers answer, nodes or not; another change takes nothing of the count.
	reach.Resolvers = []string{outsideIP}
	declare(reach)
	at(outsideIP, "tcp 8080", "udp 111", "tcp 53", "udp 53")
	if n := w.n.State().GetStrayed(); n <= counted {
		t.Errorf("%d packets counted, after %d", n, counted)
	}
	counted = w.n.State().GetStrayed()

	// Nothing said: as before. netd started anew: its tables are there, and so is what
	// they counted.
	declare(nil)
	at(outsideIP, "tcp 8080", "udp 111", "tcp 53", "udp 53")
	w.n.Close()
	w.n = w.start()
	w.cannotReach(a.ns, "tcp", outsideIP+":22")
	if n := w.n.State().GetStrayed(); n <= counted {
		t.Errorf("%d packets counted, after %d: the count does not go on with another process", n, counted)
	}

	// The machine's configuration opens more. No node known: nothing is held back.
	w.n.mayReach = []portname.Port{{Number: 22}, {Number: 8080}}
	reach.Resolvers = nil
	declare(reach)
	at(outsideIP, "tcp 8080", "udp 111", "tcp 22")
	declare(&netdpb.Reach{})
	at(outsideIP, all...)
}

// Neither managers' ports nor a node's own are opened by what is published.
func TestReachOpensNothing(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	a := w.box(1)
	for _, p := range []string{"2377", "7946", "8080"} {
		w.serve(w.outside, "tcp", "0.0.0.0:"+p)
	}
	w.serve(w.node, "tcp", "0.0.0.0:8080")
	req := w.request(a)
	req.Reach = &netdpb.Reach{Nodes: []string{outsideIP, nodeIP}, Published: []string{"tcp/2377", "tcp/7946", "tcp/8080"}, Resolvers: []string{nodeIP}}
	w.mustApply(req)
	w.reaches(a.ns, "tcp", outsideIP+":8080", nodeIP)
	w.cannotReach(a.ns, "tcp", outsideIP+":2377")
	w.cannotReach(a.ns, "tcp", outsideIP+":7946")
	w.cannotReach(a.ns, "tcp", nodeIP+":8080")
}

func TestReachRefusals(t *testing.T) {
	for name, m := range map[string]*netdpb.Reach{
		"no address":       {Nodes: []string{"node-1"}},
		"a prefix":         {Nodes: []string{"192.0.2.0/24"}},
		"a zone":           {Nodes: []string{"fe80::1%eth0"}},
		"a mapped address": {Resolvers: []string{"::ffff:192.0.2.1"}},
		"a port by itself": {Published: []string{"80"}},
		"port 0":           {Published: []string{"tcp/0"}},
		"too many nodes":   {Nodes: slices.Repeat([]string{"192.0.2.1"}, maxNodes+1)},
		"many resolvers":   {Resolvers: slices.Repeat([]string{"192.0.2.1"}, maxResolvers+1)},
		"too many ports":   {Published: slices.Repeat([]string{"tcp/1"}, portname.Max+1)},
	} {
		if r, err := parseReach(m); err == nil || r.nodes != nil || r.published != nil {
			t.Errorf("%s: %v %v", name, r, err)
		}
	}
	for text, want := range map[string]string{
		"containers_may_reach: [tcp/53, udp/53, udp/7946]": "",
		"containers_may_reach: [tcp/2377]":                 "no container reaches tcp/2377",
		"containers_may_reach: [udp/53, tcp/7946]":         "no container reaches tcp/7946",
		"containers_may_reach: [udp/53, udp/53]":           "twice",
		"containers_may_reach: [53]":                       "is no port",
		"containers_may_reach: [tcp/053]":                  "is no port",
	} {
		var c Config
		err := yaml.Unmarshal([]byte(text), &c)
		if err == nil {
			_, err = c.mayReach()
		}
		if (err == nil) != (want == "") || err != nil && !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", text, err)
		}
	}
	if _, err := (Config{ContainersMayReach: make([]string, maxMayReach+1)}).mayReach(); err == nil || !strings.Contains(err.Error(), "at most") {
		t.Error("any number of ports may be opened")
	}
}

func FuzzReach(f *testing.F) {
	f.Add("192.0.2.1", "tcp/80")
	f.Add("2001:db8::1", "udp/0")
	f.Fuzz(func(t *testing.T, node, port string) {
		r, err := parseReach(&netdpb.Reach{Nodes: []string{node, node}, Resolvers: []string{node}, Published: []string{port, port}})
		if err != nil {
			return
		}
		if len(r.nodes) > 1 || len(r.published) != 1 || !slices.Equal(r.nodes, r.resolvers) {
			t.Fatalf("%q %q: %v", node, port, r)
		}
		if len(r.nodes) == 1 && (!r.nodes[0].Is4() || r.nodes[0] != netip.MustParseAddr(node)) {
			t.Fatalf("%q: %v", node, r)
		}
	})
}

// pings asks for an echo; each id is a flow.
func (w *world) pings(ns *os.File, host string, id byte) (answered bool) {
	w.t.Helper()
	w.in(ns, func() error {
		c, err := net.Dial("ip4:icmp", host)
		if err != nil {
			return err
		}
		defer c.Close()
		request := []byte{8, 0, 0, 0, 0, id, 0, 1}
		binary.BigEndian.PutUint16(request[2:], ^(0x0800 + uint16(id) + 1))
		if _, err := c.Write(request); err != nil {
			return nil // it is refused at once
		}
		c.SetReadDeadline(time.Now().Add(silence))
		n, err := c.Read(make([]byte, 64))
		answered = err == nil && n > 0
		return nil
	})
	return answered
}
