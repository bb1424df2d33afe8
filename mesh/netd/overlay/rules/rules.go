// Package rules is the nftables ruleset inside the namespace of one overlay
// network on one node: who may send what, where virtual addresses lead, and
// which flows the network's policy allows. It makes no links and no routes, and
// trusts none: where the links are wrong, packets are dropped here.
//
// # What passes
//
// Pins come first, before fragments are put together and before connections are
// tracked. From a local port passes what has the port's MAC and address, from
// the uplink what has the router MAC of a remote endpoint's node and that
// endpoint's address; each fragment has both. An error message of ICMP passes
// only if the packet it quotes was for an endpoint behind the same port and MAC:
// nobody ends or narrows the flows of others. Frames that are not IP end here,
// as nobody needs ARP where neighbours are permanent.
//
// Then only flows from an endpoint to an endpoint are forwarded, never from the
// uplink back to it, and of the namespace itself nothing answers but ICMP echo
// to gateways and virtual addresses.
//
// # What the links have to be like
//
// Gateways and virtual addresses are addresses of lo, so that the kernel answers
// echo and takes in what is to be refused. The gateway is the namespace's only
// address besides loopback's (virtual ones are routes), so that errors come from
// it, and the uplink has accept_local, so that those of another node's namespace
// get through, as that a packet is too big.
//
// # Virtual addresses
//
// A flow of TCP or UDP to one goes to a serving endpoint of its service, chosen at
// random once and kept while the flow lasts. The form is made for changes: one
// map leads from virtual address and number to backend, another from virtual
// address to the chain that draws a number below n, and services with the same
// number of backends share that chain. A backend more or less is some elements
// of two maps. A caller that is chosen as its own backend sees the gateway as its
// client. Where nobody serves, and for other protocols, the answer is a reset or
// an ICMP error at once.
//
// # Policy
//
// Services are identities: a map leads from the address of an endpoint to a
// number made of its service's id, and rules are found by the pair of numbers.
// That is made for every packet of who began the flow, behind virtual addresses too.
// Answers and ICMP errors pass as long as the flow is known, so Forget ends what the
// rules allow no more. A packet by which TCP or SCTP begins is no answer, and is judged
// as any that begins a flow. Counters count flows, not packets.
//
// # Changes
//
// A Table knows what is in force. Set makes the difference in one transaction, or
// replaces the table in one where the form changes: packets see the old ruleset or the
// new one. The same Network is the same ruleset, whatever was before it. Forget, which
// the caller calls soon after, makes the kernel forget connections that lead to
// endpoints which went, and those of UDP, or that nobody has answered yet, that lead to
// endpoints which stopped serving; several changes are one walk through the machine's
// connections. Where an address is another task's, Set does so itself. Where somebody
// else changed the ruleset, Ensure compares all of it and puts it back.
package rules

import (
	"net"
	"net/netip"
)

// Network is what the ruleset is made of.
type Network struct {
	Subnets  []netip.Prefix
	Gateways []netip.Addr
	// Internal changes nothing here: out of the namespace leads no way for any
	// network.
	Internal bool
	// DefaultDeny lets only endpoints of one service talk, and whom Rules allow.
	// Without it, all endpoints may, and Rules are not looked at.
	DefaultDeny bool
	// Uplink is the name of the VXLAN device in the namespace.
	Uplink    string
	Endpoints []Endpoint
	Services  []Service
	Rules     []Rule
}

// Endpoint is a task's end of the network, on this node or another one.
type Endpoint struct {
	Task, Service string
	Addrs         []netip.Addr
	// Port is the namespace's end of the veth of a local endpoint; empty: remote.
	Port string
	// MAC is that of the sandbox, or the router MAC of the remote node.
	MAC net.HardwareAddr
	// Serving: virtual addresses lead to it.
	Serving bool
}

// Service is one with virtual addresses.
type Service struct {
	ID   string
	VIPs []netip.Addr
}

// Rule lets endpoints of services open flows to endpoints of services.
type Rule struct {
	// ID names its counter.
	ID       string
	From, To []string
	// Proto is the IP protocol, 0 any; ICMP means ICMPv6 as well.
	Proto uint8
	// First and Last are the ports; both 0: every one.
	First, Last uint16
}
