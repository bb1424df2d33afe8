package ingress

import (
	"net"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/redoubt-cluster/redoubt/internal/ident"
	"github.com/redoubt-cluster/redoubt/mesh/netd/internal/kernel"
	"github.com/redoubt-cluster/redoubt/mesh/netd/netdpb"
)

// A published is a service as the nodes are told of it.
type published struct {
	id    string
	vni   uint32
	ports []*netdpb.IngressPort
	tasks []*task
	idle  map[*task]bool // not serving
}

func newPublished(tasks ...*task) *published {
	return &published{id: ident.New(), vni: 5001, tasks: tasks, idle: map[*task]bool{},
		ports: []*netdpb.IngressPort{{Published: 8080, Target: 80}, {Published: 5353, Target: 53, Udp: true}}}
}

// view is the service as node n is told of it, where these are entry nodes.
func (p *published) view(n *node, entries []*node) *netdpb.IngressService {
	is := slices.Contains(entries, n)
	s := &netdpb.IngressService{ServiceId: p.id, Vni: p.vni, Ports: p.ports, Entry: &is}
	for _, e := range entries {
		if e != n {
			s.Entries = append(s.Entries, e.addr().String())
		}
	}
	for _, x := range p.tasks {
		s.Endpoints = append(s.Endpoints, p.endpoint(n, x))
	}
	return s
}

func (p *published) endpoint(n *node, x *task) *netdpb.IngressEndpoint {
	e := &netdpb.IngressEndpoint{TaskId: x.id, Address: x.addr, Address6: x.six, Serving: !p.idle[x]}
	if x.node == n {
		e.Netns = x.id
	} else {
		e.Node = x.node.addr().String()
	}
	return e
}

// testPools are the cluster's.
var testPools = []string{"10.200.0.0/13", "fd00:8::/48", "198.18.0.0/15", "10.255.0.0/16", "fd00:9::/64"}

// request is the whole for the node, where these are entry nodes.
func (n *node) request(entries []*node, services ...*published) *netdpb.IngressRequest {
	n.gen++
	req := &netdpb.IngressRequest{Generation: n.gen, MeshAddress: n.addr().String(), Subnet: "10.255.0.0/16", Subnet6: "fd00:9::/64", Netns: "net-ingress",
		Pools: &netdpb.Pools{Prefixes: testPools}}
	for _, s := range services {
		req.Services = append(req.Services, s.view(n, entries))
	}
	return req
}

func (n *node) declare(req *netdpb.IngressRequest) []*netdpb.IngressResult {
	n.lab.t.Helper()
	r, err := n.in.Declare(n.lab.t.Context(), req)
	if err != nil {
		n.lab.t.Fatalf("node %d: %v", n.i, err)
	}
	return r.GetResults()
}

// publish tells all nodes.
func (l *lab) publish(entries []*node, services ...*published) {
	l.t.Helper()
	for _, n := range l.nodes {
		if bad := n.declare(n.request(entries, services...)); len(bad) > 0 {
			l.t.Fatalf("node %d: %v", n.i, bad)
		}
	}
}

// ask asks from a namespace and returns the answer.
func ask(ns *os.File, network, to string, patience time.Duration) (answer string, err error) {
	var c net.Conn
	if err = kernel.InNetns(ns, func() (err error) { c, err = net.DialTimeout(network, to, patience); return err }); err != nil {
		return "", err
	}
	defer c.Close()
	return askOn(c, patience)
}

func askOn(c net.Conn, patience time.Duration) (string, error) {
	c.SetDeadline(time.Now().Add(patience))
	if _, err := c.Write([]byte("who?\n")); err != nil {
		return "", err
	}
	buf := make([]byte, 200)
	n, err := c.Read(buf)
	return strings.TrimSpace(string(buf[:n])), err
}

// mustAsk is the task that answers the client, which sees the client itself.
func (l *lab) mustAsk(network, to string) string {
	l.t.Helper()
	answer, err := ask(l.client, network, to, deadline/10)
	// What a datagram is answered with may be lost, as any; a connection asks again by itself.
	for end := time.Now().Add(deadline); err != nil && time.Now().Before(end); {
		answer, err = ask(l.client, network, to, deadline/10)
	}
	if err != nil {
		l.t.Fatalf("%s %s: %v", network, to, err)
	}
	who, saw, _ := strings.Cut(answer, " sees ")
	want := clientAddr
	if strings.HasPrefix(to, "[") {
		want = clientAddr6
	}
	if saw != want {
		l.t.Errorf("%s %s: the task saw %s, want %s", network, to, saw, want)
	}
	return who
}

// waitFor looks until it is so.
func (n *node) waitFor(what string, so func() bool) {
	n.lab.t.Helper()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for end := time.Now().Add(deadline); !so(); <-tick.C {
		if time.Now().After(end) {
			n.lab.t.Fatalf("node %d: not %s: %v", n.i, what, n.in.State())
		}
	}
}
