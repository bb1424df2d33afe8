// Package spec decides whether a network, a policy or a service's use of networks
// may be stored: it fills in what is left out and validates every field, each
// with a bound in limits.go. It is strict: what it does not know it refuses, also
// fields of a newer version, and what nodes cannot do yet it refuses saying so
// (available.go). Every refusal is one line that names the field and the remedy.
//
// It looks nothing up. Whether a subnet overlaps another network's, and which one
// comes from a pool, is the store's to say.
package spec

import (
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"unicode"

	"google.golang.org/protobuf/proto"

	"github.com/redoubt-cluster/redoubt/internal/ident"
	"github.com/redoubt-cluster/redoubt/internal/strictpb"
	"github.com/redoubt-cluster/redoubt/mesh/ipam"
	"github.com/redoubt-cluster/redoubt/mesh/meshpb"
)

// Drivers of networks that nodes can make.
const (
	// Overlay spans nodes, and is the default.
	Overlay = "overlay"
	// Bridge is as overlay, but each node has its own of it.
	Bridge = "bridge"
	// CNI is what a node's administrator installed there.
	CNI = "cni"
	// NoNetwork is a sandbox with a loopback interface.
	NoNetwork = "none"
)

// conflist is the option of CNI that says which of the node's it is.
const conflist = "conflist"

// drivers are those that are known, each with the options it takes.
var drivers = map[string][]string{
	Overlay: nil, Bridge: nil, "host": nil, NoNetwork: nil, "macvlan": {"parent"}, CNI: {conflist},
}

// elsewhere are the names of Docker's own networks: who writes --network host
// means the node's, and would be on another.
var elsewhere = []string{"host", "none", "bridge", "ingress"}

// Kind is that of networks of a driver.
func Kind(driver string) meshpb.Kind {
	if driver == Overlay {
		return meshpb.Kind_KIND_OVERLAY
	}
	return meshpb.Kind_KIND_LOCAL
}

// Given reports whether the store gives the addresses on a network of a driver;
// otherwise the node's plugins do, or nobody.
func Given(driver string) bool { return driver == Overlay || driver == Bridge }

// MeshFeature is how a node says that it is part of the mesh
// (docs/decisions/0073), NoneFeature that it knows networks of driver none,
// FIPSFeature that it is in FIPS mode, in which there is no mesh.
const (
	MeshFeature = "mesh"
	NoneFeature = "net:none"
	FIPSFeature = "fips"
)

// NoMeshInFIPS is why.
const NoMeshInFIPS = "FIPS needs the IPsec driver, which this version has not"

// NodeFeature is what a node has to report so that tasks on the network can be
// there: one that does not know a network would run them without.
func NodeFeature(s *meshpb.NetworkSpec) string {
	switch s.GetDriver() {
	case CNI:
		return CNIFeature(s.GetOptions()[conflist])
	case NoNetwork:
		return NoneFeature
	}
	return MeshFeature
}

// CNIFeature is how a node says that it has a conflist.
func CNIFeature(conflist string) string { return "cni:" + conflist }

// Drivers are the names of all that are known.
func Drivers() []string { return slices.Sorted(maps.Keys(drivers)) }

// Network returns a copy of s with defaults, or an error that says which field is
// wrong and what to do.
func Network(s *meshpb.NetworkSpec) (*meshpb.NetworkSpec, error) {
	if s == nil {
		return nil, errors.New("there is no network: give a name")
	}
	if err := known(s); err != nil {
		return nil, err
	}
	s = proto.CloneOf(s)
	if s.Driver == "" {
		s.Driver = Overlay
	}
	if err := ident.CheckOwnName("network", s.GetName()); err != nil {
		return nil, err
	}
	if slices.Contains(elsewhere, s.GetName()) {
		return nil, fmt.Errorf("network name %q is that of a network of each node elsewhere, and would be another here: choose another name", s.GetName())
	}
	if err := ident.CheckLabels("network label", s.GetLabels()); err != nil {
		return nil, err
	}
	if err := checkDriver(s); err != nil {
		return nil, err
	}
	if len(s.GetSubnets()) > 2 {
		return nil, fmt.Errorf("there are %d subnets: give one of IPv4 and one of IPv6 at most", len(s.GetSubnets()))
	}
	for i, sub := range s.Subnets {
		p, err := subnet(sub)
		if err != nil {
			return nil, err
		}
		if i > 0 && p.Addr().Is4() == netip.MustParsePrefix(s.Subnets[0].Subnet).Addr().Is4() {
			return nil, fmt.Errorf("subnets %s and %s are of one family: give one of IPv4 and one of IPv6 at most", s.Subnets[0].Subnet, p)
		}
		if !p.Addr().Is4() {
			s.Ipv6 = true
		}
	}
	slices.SortFunc(s.Subnets, func(a, b *meshpb.Subnet) int { // IPv4 first
		return strings.Index(a.Subnet, ":") - strings.Index(b.Subnet, ":")
	})
	return s, nil
}

func known(m proto.Message) error {
	if t := strictpb.Unknown(m); t != "" {
		return fmt.Errorf("%s has fields that this version does not know: upgrade the cluster or use the matching client", t[strings.LastIndexByte(t, '.')+1:])
	}
	if n := proto.Size(m); n > MaxSpecBytes {
		return fmt.Errorf("it is %d bytes long in all: at most %d are allowed", n, MaxSpecBytes)
	}
	return nil
}

func checkDriver(s *meshpb.NetworkSpec) error {
	takes, ok := drivers[s.GetDriver()]
	if !ok {
		return fmt.Errorf("network driver %q is unknown: use one of %s", ident.Clip(s.GetDriver()), strings.Join(Drivers(), ", "))
	}
	if len(s.GetOptions()) > MaxOptions {
		return fmt.Errorf("there are %d network options: at most %d are allowed", len(s.GetOptions()), MaxOptions)
	}
	for _, k := range slices.Sorted(maps.Keys(s.GetOptions())) {
		switch v := s.GetOptions()[k]; {
		case k == "encrypted" && s.GetDriver() == Overlay:
			return errors.New("option encrypted: overlay networks are always encrypted: leave the option out")
		case !slices.Contains(takes, k) && len(takes) == 0:
			return fmt.Errorf("network option %q is unknown: driver %s takes none", ident.Clip(k), s.GetDriver())
		case !slices.Contains(takes, k):
			return fmt.Errorf("network option %q is unknown: driver %s takes %s", ident.Clip(k), s.GetDriver(), strings.Join(takes, ", "))
		case len(v) > MaxOption || strings.ContainsFunc(v, func(r rune) bool { return r < ' ' || r == 0x7f }):
			return fmt.Errorf("network option %s: use up to %d characters on one line", k, MaxOption)
		}
	}
	if err := hasDataPlane(s.GetDriver()); err != nil {
		return err
	}
	return checkUngiven(s)
}

// checkUngiven refuses, of networks that the mesh does not make, what nobody would
// see to.
func checkUngiven(s *meshpb.NetworkSpec) error {
	driver := s.GetDriver()
	if Given(driver) {
		return nil
	}
	why := "its nodes' conflists say"
	if driver == NoNetwork {
		why = "there is no interface"
	}
	switch {
	case len(s.GetSubnets()) > 0 || s.GetIpv6():
		return fmt.Errorf("networks of driver %s have no subnet here, %s: leave --subnet, --gateway, --ip-range and --ipv6 out", driver, why)
	case s.GetInternal() && driver == CNI:
		return fmt.Errorf("whether there is a way out of a network of driver %s %s: leave --internal out", driver, why)
	case s.GetDefaultDeny():
		return fmt.Errorf("policies have no effect on networks of driver %s: leave --default-deny out", driver)
	case driver == CNI && !validConflist(s.GetOptions()[conflist]):
		return fmt.Errorf("networks of driver %s need --opt %s=NAME: the name of a file NAME.conflist on the nodes, of at most %d letters, digits, dots, underscores and hyphens", driver, conflist, maxConflist)
	}
	return nil
}

func validConflist(s string) bool {
	plain := func(r rune) bool { return r < 0x80 && (unicode.IsLetter(r) || unicode.IsDigit(r)) }
	if s == "" || len(s) > maxConflist || !plain(rune(s[0])) {
		return false
	}
	return !strings.ContainsFunc(s, func(r rune) bool { return !plain(r) && !strings.ContainsRune("-_.", r) })
}

// subnet checks one subnet and writes its default gateway out.
func subnet(s *meshpb.Subnet) (netip.Prefix, error) {
	text := s.GetSubnet()
	p, err := Prefix("subnet", text)
	if err != nil {
		return p, err
	}
	least, most := MinBits4, MaxBits4
	if !p.Addr().Is4() {
		least, most = MinBits6, MaxBits6
	}
	if p.Bits() > most {
		return p, fmt.Errorf("subnet %s is too small: use /%d or larger", p, most)
	}
	if p.Bits() < least {
		return p, fmt.Errorf("subnet %s is too large: use /%d or smaller", p, least)
	}
	if s.Gateway == "" {
		s.Gateway = p.Addr().Next().String()
	}
	g, err := netip.ParseAddr(s.Gateway)
	switch {
	case err != nil || g.String() != s.Gateway || g.Zone() != "":
		return p, fmt.Errorf("gateway %q is not an IP address in its usual form: write it as %s", ident.Clip(s.Gateway), p.Addr().Next())
	case !p.Contains(g):
		return p, fmt.Errorf("gateway %s is outside of subnet %s: use an address of it, as %s", g, p, p.Addr().Next())
	case g == p.Addr() || g == ipam.Last(p):
		return p, fmt.Errorf("gateway %s is the first or last address of %s, which stand for all of it: use another, as %s", g, p, p.Addr().Next())
	}
	if s.IpRange == "" {
		return p, nil
	}
	r, err := Prefix("range", s.IpRange)
	switch {
	case err != nil:
		return p, err
	case r.Bits() < p.Bits() || !p.Contains(r.Addr()):
		return p, fmt.Errorf("range %s is outside of subnet %s: give a part of it", r, p)
	case r.Bits() > most:
		return p, fmt.Errorf("range %s is too small: use /%d or larger", r, most)
	}
	return p, nil
}

// Prefix reads a CIDR of addresses that containers may have.
func Prefix(what, text string) (netip.Prefix, error) {
	p, err := netip.ParsePrefix(text)
	switch a := p.Addr(); {
	case err != nil || a.Is4In6():
		return p, fmt.Errorf("%s %q is not in CIDR notation: write it as 10.1.0.0/24", what, ident.Clip(text))
	case p != p.Masked():
		return p, fmt.Errorf("%s %s has host bits set: write %s", what, p, p.Masked())
	case p.String() != text:
		return p, fmt.Errorf("%s %q is not in its usual form: write %s", what, ident.Clip(text), p)
	case unusual(p):
		return p, fmt.Errorf("%s %s is not ordinary unicast: use a private one, as 10.1.0.0/24 or one in fd00::/8", what, p)
	}
	return p, nil
}

// reserved are addresses that mean something else on every machine.
var reserved = []netip.Prefix{
	netip.MustParsePrefix("0.0.0.0/8"), netip.MustParsePrefix("127.0.0.0/8"), netip.MustParsePrefix("169.254.0.0/16"),
	netip.MustParsePrefix("224.0.0.0/3"), netip.MustParsePrefix("::/8"), netip.MustParsePrefix("fe80::/10"), netip.MustParsePrefix("ff00::/8"),
}

func unusual(p netip.Prefix) bool {
	return slices.ContainsFunc(reserved, p.Overlaps)
}
