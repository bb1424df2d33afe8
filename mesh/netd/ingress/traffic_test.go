package ingress

import (
	"errors"
	"net"
	"syscall"
	"testing"

	"github.com/redoubt-cluster/redoubt/mesh/netd/internal/kernel"
	"github.com/redoubt-cluster/redoubt/mesh/netd/internal/netlab"
	"github.com/redoubt-cluster/redoubt/mesh/netd/netdpb"
)

// Every entry node answers for every task, and each task sees who asks.
func TestEveryEntryNodeAnswers(t *testing.T) {
	l := newLab(t, 3)
	p := newPublished(l.nodes[0].task(1), l.nodes[1].task(2))
	l.publish(l.nodes, p)
	for _, n := range l.nodes {
		for network, port := range map[string]string{"tcp": "8080", "udp": "5353"} {
			for _, under := range []string{n.under(), n.under6()} {
				seen := map[string]int{}
				for range 4 {
					seen[l.mustAsk(network, net.JoinHostPort(under, port))]++
				}
				if seen["10.255.0.1"] != 2 || seen["10.255.0.2"] != 2 {
					t.Errorf("node %d, %s: answered by %v, want each task twice", n.i, network, seen)
				}
			}
		}
	}
	for _, n := range l.nodes {
		if s := n.in.State(); s.GetRepairs() != 0 || s.GetError() != "" || len(s.GetDropped()) == 0 {
			t.Errorf("node %d: %v", n.i, s)
		} else {
			for reason, k := range s.GetDropped() {
				if k > 0 {
					t.Errorf("node %d: %d packets dropped as %s", n.i, k, reason)
				}
			}
		}
	}
	// The node's own processes, by whatever address of it, get there too.
	for _, to := range []string{"127.0.0.1", "192.0.2.3", "[::1]", "[2001:db8::3]"} {
		if answer, err := ask(l.nodes[2].ns, "tcp", to+":8080", deadline); err != nil {
			t.Errorf("from the node itself to %s: %v", to, err)
		} else {
			t.Logf("%s: %s", to, answer)
		}
	}
	// The mesh address is not an address of the service.
	if _, err := ask(l.nodes[0].ns, "tcp", l.nodes[2].addr().String()+":8080", silence); err == nil {
		t.Error("the mesh address answers")
	}
}

func TestWhoIsChosen(t *testing.T) {
	l := newLab(t, 2)
	a, b := l.nodes[0], l.nodes[1]
	p := newPublished(a.task(1), b.task(2))
	p.ports[0].PreferLocal = true
	l.publish([]*node{a}, p)
	at := func(port string) string { return net.JoinHostPort(a.under(), port) }
	for range 4 {
		if who := l.mustAsk("tcp", at("8080")); who != "10.255.0.1" {
			t.Errorf("%s answered, though there is a task on the node", who)
		}
	}
	// One that is no entry node answers nothing.
	if _, err := ask(l.client, "tcp", net.JoinHostPort(b.under(), "8080"), silence); err == nil {
		t.Error("a node that is no entry answers")
	}
	var c net.Conn
	netlab.Within(t, l.client, func() (err error) { c, err = net.Dial("tcp", at("8080")); return err })
	defer c.Close()
	if _, err := askOn(c, deadline); err != nil {
		t.Fatal(err)
	}
	change := func(n *node, s *netdpb.IngressService) {
		t.Helper()
		n.gen++
		s.ServiceId, s.Changes = p.id, true
		if bad := n.declare(&netdpb.IngressRequest{Generation: n.gen, Base: n.gen - 1, Services: []*netdpb.IngressService{s}}); len(bad) > 0 {
			t.Fatal(bad)
		}
	}
	// What stops serving gets nothing new, and keeps what it has.
	p.idle[p.tasks[0]] = true
	change(a, &netdpb.IngressService{Endpoints: []*netdpb.IngressEndpoint{p.endpoint(a, p.tasks[0])}})
	for range 4 {
		for network, port := range map[string]string{"tcp": "8080", "udp": "5353"} {
			if who := l.mustAsk(network, at(port)); who != "10.255.0.2" {
				t.Errorf("%s answered after it stopped serving", who)
			}
		}
	}
	if who, err := askOn(c, deadline); err != nil || who != "10.255.0.1 sees "+clientAddr {
		t.Errorf("a connection of before: %q, %v", who, err)
	}
	// What is gone keeps nothing.
	change(a, &netdpb.IngressService{RemovedEndpoints: []string{p.tasks[0].id}})
	if who, err := askOn(c, silence); err == nil {
		t.Errorf("a connection to what is gone: %q", who)
	}
	// Nobody serves: refused at once.
	p.idle[p.tasks[1]] = true
	change(a, &netdpb.IngressService{Endpoints: []*netdpb.IngressEndpoint{p.endpoint(a, p.tasks[1])}})
	if _, err := ask(l.client, "tcp", at("8080"), deadline); !errors.Is(err, syscall.ECONNREFUSED) && !errors.Is(err, syscall.EHOSTUNREACH) {
		t.Errorf("nobody serves, and nobody says so: %v", err)
	}
	// A client that goes on asking is answered when somebody serves again.
	netlab.Within(t, l.client, func() (err error) { c, err = net.Dial("udp", at("5353")); return err })
	defer c.Close()
	if _, err := askOn(c, silence); err == nil {
		t.Error("nobody serves, and somebody answers")
	}
	p.idle[p.tasks[1]] = false
	change(a, &netdpb.IngressService{Endpoints: []*netdpb.IngressEndpoint{p.endpoint(a, p.tasks[1])}})
	if who, err := askOn(c, deadline); err != nil || who != "10.255.0.2 sees "+clientAddr {
		t.Errorf("datagrams after somebody serves again: %q, %v", who, err)
	}
}

// A port that a process of the node has is an error of that port, whoever came
// first, and no other port suffers.
func TestPortsOfProcesses(t *testing.T) {
	l := newLab(t, 1)
	a := l.nodes[0]
	p := newPublished(a.task(1))
	p.ports = append(p.ports, &netdpb.IngressPort{Published: 80, Target: 80}, &netdpb.IngressPort{Published: 81, Target: 80, HostIp: a.under()})
	var taken net.Listener
	netlab.Within(t, a.ns, func() (err error) { taken, err = net.Listen("tcp", a.under()+":8080"); return err })
	bad := a.declare(a.request(l.nodes, p))
	if len(bad) != 1 || bad[0].GetPublished() != 8080 || bad[0].GetError() != "port 8080/tcp is in use on this node: stop what listens there or publish another" {
		t.Fatalf("%v", bad)
	}
	for _, port := range []string{"80", "81"} {
		l.mustAsk("tcp", net.JoinHostPort(a.under(), port))
	}
	// Another one cannot take what is published.
	err := kernel.InNetns(a.ns, func() error {
		x, err := net.Listen("tcp", a.under()+":5353") // UDP is published
		if err == nil {
			x.Close()
		}
		y, err2 := net.ListenPacket("udp", a.under()+":5353")
		if err2 == nil {
			y.Close()
			t.Error("a process takes a published port")
		}
		return err
	})
	if err != nil {
		t.Error(err)
	}
	taken.Close()
	a.in.repair(t.Context())
	if s := a.in.State(); len(s.GetResults()) != 0 {
		t.Errorf("%v", s)
	}
	l.mustAsk("tcp", net.JoinHostPort(a.under(), "8080"))
	// Of a named address that is not the node's, or in the mesh.
	p.ports = []*netdpb.IngressPort{{Published: 82, Target: 80, HostIp: "192.0.2.77"}, {Published: 83, Target: 80, HostIp: a.addr().String()}}
	if bad := a.declare(a.request(l.nodes, p)); len(bad) != 2 || bad[0].GetError() != "192.0.2.77 is no address of this node" {
		t.Errorf("%v", bad)
	}
}
