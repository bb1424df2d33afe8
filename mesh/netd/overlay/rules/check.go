package rules

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// newForm checks what belongs to no endpoint or service.
func newForm(n *Network) (form, error) {
	f := form{uplink: n.Uplink, deny: n.DefaultDeny, subnets: slices.Clone(n.Subnets), gateways: slices.Clone(n.Gateways)}
	switch {
	case len(n.Endpoints) > maxEndpoints:
		return f, fmt.Errorf("%d endpoints: at most %d are allowed in a network", len(n.Endpoints), maxEndpoints)
	case len(n.Services) > maxServices:
		return f, fmt.Errorf("%d services: at most %d are allowed in a network", len(n.Services), maxServices)
	case len(n.Rules) > maxRules:
		return f, fmt.Errorf("%d rules: at most %d are allowed in a network", len(n.Rules), maxRules)
	case len(n.Subnets) > maxAddrs || len(n.Gateways) > maxAddrs:
		return f, fmt.Errorf("%d subnets and %d gateways: at most %d are allowed", len(n.Subnets), len(n.Gateways), maxAddrs)
	}
	if err := checkLink(n.Uplink); err != nil {
		return f, fmt.Errorf("uplink: %w", err)
	}
	for _, s := range n.Subnets {
		if !s.IsValid() || s != s.Masked() || s.Addr().Is4In6() {
			return f, fmt.Errorf("subnet %s is not the address of a network", s)
		}
	}
	for i, g := range n.Gateways {
		if err := f.checkAddr(g); err != nil {
			return f, fmt.Errorf("gateway: %w", err)
		}
		if slices.Contains(n.Gateways[:i], g) {
			return f, fmt.Errorf("gateway %s is given twice", g)
		}
	}
	return f, nil
}

func checkLink(name string) error {
	if name == "" || len(name) >= unix.IFNAMSIZ || strings.ContainsAny(name, "/ \t\n\x00") || name == "." || name == ".." {
		return fmt.Errorf("%q is no name of an interface", name)
	}
	return nil
}

// checkAddr refuses what is not an address of the network.
func (f *form) checkAddr(a netip.Addr) error {
	if !a.IsValid() || a.Is4In6() || a.Zone() != "" || a.IsUnspecified() || a.IsMulticast() || a.IsLoopback() || a.IsLinkLocalUnicast() {
		return fmt.Errorf("%s is not an address for a container", a)
	}
	if !slices.ContainsFunc(f.subnets, func(s netip.Prefix) bool { return s.Contains(a) }) {
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
