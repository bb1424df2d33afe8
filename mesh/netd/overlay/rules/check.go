package rules

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// frame checks what belongs to no endpoint or service.
func (p *plan) frame(n *Network) error {
	switch {
	case len(n.Endpoints) > maxEndpoints:
		return fmt.Errorf("%d endpoints: at most %d are allowed in a network", len(n.Endpoints), maxEndpoints)
	case len(n.Services) > maxServices:
		return fmt.Errorf("%d services: at most %d are allowed in a network", len(n.Services), maxServices)
	case len(n.Rules) > maxRules:
		return fmt.Errorf("%d rules: at most %d are allowed in a network", len(n.Rules), maxRules)
	case len(n.Subnets) > maxAddrs || len(n.Gateways) > maxAddrs:
		return fmt.Errorf("%d subnets and %d gateways: at most %d are allowed", len(n.Subnets), len(n.Gateways), maxAddrs)
	}
	if err := checkLink(n.Uplink); err != nil {
		return fmt.Errorf("uplink: %w", err)
	}
	for _, s := range n.Subnets {
		if !s.IsValid() || s != s.Masked() || s.Addr().Is4In6() {
			return fmt.Errorf("subnet %s is not the address of a network", s)
		}
	}
	for i, g := range n.Gateways {
		if err := p.checkAddr(g); err != nil {
			return fmt.Errorf("gateway: %w", err)
		}
		if slices.Contains(n.Gateways[:i], g) {
			return fmt.Errorf("gateway %s is given twice", g)
		}
	}
	return nil
}

func checkLink(name string) error {
	if name == "" || len(name) >= unix.IFNAMSIZ || strings.ContainsAny(name, "/ \t\n\x00") || name == "." || name == ".." {
		return fmt.Errorf("%q is no name of an interface", name)
	}
	return nil
}

// checkAddr refuses what is not an address of the network.
func (p *plan) checkAddr(a netip.Addr) error {
	if !a.IsValid() || a.Is4In6() || a.Zone() != "" || a.IsUnspecified() || a.IsMulticast() || a.IsLoopback() || a.IsLinkLocalUnicast() {
		return fmt.Errorf("%s is not an address for a container", a)
	}
	if !slices.ContainsFunc(p.subnets, func(s netip.Prefix) bool { return s.Contains(a) }) {
		return fmt.Errorf("%s is outside the subnets", a)
	}
	return nil
}

// checkID admits what may stand in names of the ruleset.
func checkID(id string) error {
	if id == "" || len(id) > maxID {
		return fmt.Errorf("id %q is empty or longer than %d bytes", id, maxID)
	}
	for _, c := range []byte(id) {
		if c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || strings.IndexByte("-_./", c) >= 0 {
			continue
		}
		return fmt.Errorf("id %q has other characters than letters, digits, - _ . and /", id)
	}
	return nil
}

func (p *plan) addService(s *Service) error {
	if err := checkID(s.ID); err != nil {
		return fmt.Errorf("service: %w", err)
	}
	if _, ok := p.byID[s.ID]; ok {
		return fmt.Errorf("service %s is given twice", s.ID)
	}
	if len(s.VIPs) > maxAddrs {
		return fmt.Errorf("service %s has %d virtual addresses: at most %d are allowed", s.ID, len(s.VIPs), maxAddrs)
	}
	for _, a := range s.VIPs {
		if err := p.claim(a, -1); err != nil {
			return fmt.Errorf("service %s: %w", s.ID, err)
		}
	}
	p.byID[s.ID] = len(p.services)
	p.services = append(p.services, service{id: s.ID, vips: slices.Clone(s.VIPs)})
	return nil
}

// claim notes whose the address is: an endpoint's, by its place, or nobody's.
func (p *plan) claim(a netip.Addr, owner int) error {
	if err := p.checkAddr(a); err != nil {
		return err
	}
	if slices.Contains(p.gateways, a) {
		return fmt.Errorf("%s is a gateway", a)
	}
	if _, taken := p.byAddr[a]; taken {
		return fmt.Errorf("%s is given twice", a)
	}
	p.byAddr[a] = owner
	return nil
}

func (p *plan) addEndpoint(e *Endpoint, numbers map[string]number, ports map[string]bool) error {
	if err := checkID(e.Task); err != nil {
		return fmt.Errorf("task: %w", err)
	}
	wrong := func(err error) error { return fmt.Errorf("task %s: %w", e.Task, err) }
	if _, ok := p.byTask[e.Task]; ok {
		return wrong(errors.New("is given twice"))
	}
	if len(e.Addrs) == 0 || len(e.Addrs) > maxAddrs {
		return wrong(fmt.Errorf("has %d addresses: 1 to %d are allowed", len(e.Addrs), maxAddrs))
	}
	if len(e.MAC) != 6 || e.MAC[0]&1 != 0 {
		return wrong(fmt.Errorf("%q is no MAC of an interface", e.MAC.String()))
	}
	x := endpoint{task: e.Task, service: e.Service, port: e.Port, mac: [6]byte(e.MAC), addrs: slices.Clone(e.Addrs), serving: e.Serving}
	switch {
	case e.Port == "":
		x.port, x.remote = p.uplink, true
	case e.Port == p.uplink || ports[e.Port]:
		return wrong(fmt.Errorf("port %s belongs to another", e.Port))
	default:
		if err := checkLink(e.Port); err != nil {
			return wrong(fmt.Errorf("port: %w", err))
		}
		ports[e.Port] = true
	}
	if e.Service != "" { // else it is nobody whom a rule could name
		if err := checkID(e.Service); err != nil {
			return wrong(fmt.Errorf("service: %w", err))
		}
		x.number = numbers[e.Service]
	}
	for _, a := range e.Addrs {
		if err := p.claim(a, len(p.endpoints)); err != nil {
			return wrong(err)
		}
		if !x.remote && !p.gatewayOf(a).IsValid() {
			return wrong(fmt.Errorf("the subnet of %s has no gateway", a))
		}
	}
	if s, ok := p.byID[e.Service]; ok && e.Serving {
		p.services[s].backends = append(p.services[s].backends, e.Addrs...)
	}
	p.byTask[e.Task] = len(p.endpoints)
	p.endpoints = append(p.endpoints, x)
	return nil
}
