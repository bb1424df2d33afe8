package e2e

import (
	"strings"
	"testing"
	"time"
)

// TestNetworkBadInput: what a tired operator gives for networks is refused on one
// line that says what to do, warned of, or shown where it shows.
func TestNetworkBadInput(t *testing.T) {
	t.Parallel()
	c := up(t, "networkinput", 1, 1)
	c.load()
	const m = "manager-1"
	node := c.host("worker-1").Address
	lan := node[:strings.LastIndexByte(node, '.')] + ".0/24"
	c.ok(m, "network", "create", "front")
	c.ok(m, "network", "create", "back")
	c.ok(m, "network", "create", "--subnet", "10.9.0.0/29", "tiny")
	c.ok(m, "service", "create", "--name", "web", "--network", "front", image)
	for _, tc := range []struct {
		code int
		want string
		args string
	}{
		{2, "too small: use /29 or larger", "network create --subnet 10.9.1.0/31 x"},
		{2, "host bits set: write 10.9.1.0/24", "network create --subnet 10.9.1.7/24 x"},
		{2, "not in CIDR notation", "network create --subnet 10.9.1.0 x"},
		{2, "is not ordinary unicast", "network create --subnet 127.0.0.0/24 x"},
		{2, "is not ordinary unicast", "network create --subnet fe80::/64 x"},
		{2, "one of IPv4 and one of IPv6", "network create --subnet 10.9.1.0/24 --subnet 10.9.2.0/24 x"},
		{1, "overlaps 10.9.0.0/29 of network tiny", "network create --subnet 10.9.0.0/16 x"},
		{1, "of the nodes' addresses", "network create --subnet 198.18.7.0/24 x"},
		{1, "of published ports", "network create --subnet 10.255.7.0/24 x"},
		{2, "is no address", "network create --subnet 10.9.1.0/24 --gateway first x"},
		{2, "lies in no --subnet", "network create --gateway 10.9.1.1 x"},
		{2, "driver \"vlan\" is unknown", "network create --driver vlan x"},
		{2, "always encrypted", "network create --opt encrypted=false x"},
		{2, "only lowercase letters", "network create Ünderground"},
		{2, "choose another name", "network create host"},
		{1, "exists already", "network create front"},
		{1, "in use by service web", "network rm front"},
		{1, "no network \"nosuch\"", "network rm nosuch"},
		{1, "no network \"nosuch\"", "service create --name x --network nosuch " + image},
		{1, "is given twice: keep one", "service create --name x --network front,alias=a,alias=a " + image},
		{1, "is given twice: keep one", "service create --name x --network front --network front " + image},
		{1, "only lowercase letters", "service create --name x --network front,alias=dürer " + image},
		{2, "write it as NAME or NAME,alias=OTHER", "service create --name x --network front,web " + image},
		{1, "is for services on networks", "service create --name x --endpoint-mode dnsrr " + image},
		{1, "the service is not on that network", "service update --network-rm back web"},
		{2, "added and removed in one command", "service update --network-rm back --network-add back web"},
		{2, "ports", "policy create --network back --allow service:a->service:b:tcp/0 p"},
		{1, "no service \"db\"", "policy explain web db 5432"},
	} {
		c.refused(m, tc.code, tc.want, nil, strings.Fields(tc.args)...)
	}
	for _, tc := range []struct{ want, args string }{
		{"has the addresses of nodes in it (", "network create --subnet " + lan + " lan"},
		{"is the name of another service there", "service create --detach --name x --network front,alias=web " + image},
		{"was not made with --default-deny", "policy create --network front --allow service:web->service:x:tcp/80 p"},
	} {
		if r := c.on(m, strings.Fields(tc.args)...); r.code != 0 || !strings.Contains(r.stderr, "warning: ") || !strings.Contains(r.stderr, tc.want) {
			t.Errorf("redoubt %s: want a warning with %q, got %v", tc.args, tc.want, r)
		}
	}
	// More tasks than a network has addresses for.
	c.ok(m, "service", "create", "--detach", "--name", "many", "--replicas", "6", "--network", "tiny", image)
	eventually(t, time.Minute, func() string {
		ps := c.ok(m, "service", "ps", "--no-trunc", "many")
		if strings.Count(ps, "network tiny has no free address: all 4 of 10.9.0.0/29 are taken") != 2 {
			return "two tasks do not say that the network is full:\n" + ps
		}
		return ""
	})
	// A node whose peers' port somebody else has cannot make tunnels.
	c.lab("stop", "worker-1")
	c.listenOn("worker-1", "7946")
	c.lab("start", "worker-1")
	eventually(t, time.Minute, func() string {
		if text := c.ok(m, "node", "inspect", "worker-1"); !strings.Contains(text, "7946") {
			return "the node does not say that its port is taken:\n" + text
		}
		return ""
	})
	c.ok(m, "service", "create", "--detach", "--name", "late", "--network", "back", image)
	c.ok(m, "service", "create", "--name", "alone", image)
	eventually(t, time.Minute, func() string {
		ps := c.ok(m, "service", "ps", "--no-trunc", "late")
		if !strings.Contains(ps, "1 cannot make tunnels for networks: see node inspect") {
			return "it does not say why it has no node:\n" + ps
		}
		return ""
	})
}
