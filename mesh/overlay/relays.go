package overlay

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"
)

// A port with the PROXY protocol leads to a relay in the task's container, which
// leads on to the program. Entry nodes must know where it listens, before there is
// one and without being told: so it follows from the service's ports. It is above
// what the kernel chooses ports from, and as long as nothing is in its way depends
// on the published number alone: ports that come and go move no relay.

const (
	firstRelay = 61000
	relayPorts = 65535 - firstRelay + 1
)

// A Relay is what one of the network's ports is led to.
type Relay struct {
	Port
	// Listen is where, in the sandbox.
	Listen uint16
}

// header reports whether connections to the port begin with one.
func (p Port) header() bool { return p.Proxy && !p.UDP }

// Relays are those of the network's ports.
func (n *Network) Relays() []Relay { return relaysOf(n.Ports) }

func relaysOf(ports []Port) (out []Relay) {
	if !slices.ContainsFunc(ports, Port.header) {
		return nil
	}
	taken := map[uint16]bool{} // a program of the task may listen there
	for _, p := range ports {
		taken[p.Target] = true
		if p.header() {
			out = append(out, Relay{Port: p})
		}
	}
	slices.SortFunc(out, func(a, b Relay) int { return cmp.Or(cmp.Compare(a.Published, b.Published), a.Host.Compare(b.Host)) })
	for i := range out {
		at := out[i].Published % relayPorts
		for taken[firstRelay+at] {
			at = (at + 1) % relayPorts
		}
		out[i].Listen = firstRelay + at
		taken[out[i].Listen] = true
	}
	return out
}

// led are the ports as they are declared: a relay's leads to that. One that this
// node does not know how to lead is not among them, see unable.
func led(ports []Port) (out []Port) {
	relays := relaysOf(ports)
	for _, p := range ports {
		switch {
		case p.header():
			i := slices.IndexFunc(relays, func(r Relay) bool { return r.Port == p })
			p.Target = relays[i].Listen
		case p.Proxy:
			continue
		}
		out = append(out, p)
	}
	return out
}

// unable says which ports this node does not answer on as it would have to. Managers
// do not take such ports; one of a later version might.
func (n *Network) unable() (out []string) {
	for _, p := range n.Ports {
		if p.Proxy && p.UDP {
			out = append(out, fmt.Sprintf("port %s: the PROXY protocol is for TCP", p))
		}
	}
	return out
}

// HostFor is the address that the port is published at, if it is one.
func (p Port) HostFor() netip.Addr {
	if p.Host.IsValid() && !p.Host.IsUnspecified() {
		return p.Host
	}
	return netip.Addr{}
}
