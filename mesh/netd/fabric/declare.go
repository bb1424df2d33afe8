package fabric

import (
	"errors"
	"fmt"
	"math/bits"
	"net/netip"
	"time"

	"golang.zx2c4.com/wireguard/wgctrl/wgtypes"

	"github.com/redoubt-cluster/redoubt/internal/ident"
	"github.com/redoubt-cluster/redoubt/mesh/netd/netdpb"
)

// A declaration is a checked FabricRequest, as far as it can be checked without
// knowing what is in force.
type declaration struct {
	settings
	base    uint64
	upsert  []*peer
	removed []string
}

// settings are all of a declaration but the peers.
type settings struct {
	generation uint64
	own        wgtypes.Key  // zero: the one in force
	address    netip.Prefix // zero: nothing is wanted
	port       int          // 0: any
	underlay   int          // MTU; 0: found
	control    uint16       // 0: none
}

type peer struct {
	node      string
	key       wgtypes.Key
	psk       psk
	endpoint  netip.AddrPort // zero: not known
	addr      netip.Addr
	keepalive time.Duration
	mtu       int      // of its tunnels; 0: not known
	next      *nextKey // nil: none is announced
}

type nextKey struct {
	key wgtypes.Key
	psk psk
}

// parse checks the request. Keys are copied out of it and wiped there.
func parse(req *netdpb.FabricRequest) (d declaration, err error) {
	defer forget(req)
	d.generation, d.base = req.GetGeneration(), req.GetBase()
	switch {
	case d.generation == 0:
		return d, errors.New("generation is missing: it starts at 1")
	case d.base >= d.generation:
		return d, fmt.Errorf("base %d is not older than generation %d", d.base, d.generation)
	case d.base == 0 && len(req.GetRemoved()) > 0:
		return d, errors.New("removed names peers, but base is missing: a whole declaration leaves out what is to go")
	}
	if req.GetAddress() == "" {
		if len(req.GetPeers())+len(req.GetRemoved()) > 0 {
			return d, errors.New("address is missing: peers need the node's mesh address")
		}
		return d, nil
	}
	if d.address, err = parseAddress(req.GetAddress()); err != nil {
		return d, err
	}
	if n := req.GetListenPort(); n > 65535 {
		return d, fmt.Errorf("listen_port %d is out of range: 1 to 65535, 0 for any", n)
	}
	if n := req.GetControlPort(); n > 65535 {
		return d, fmt.Errorf("control_port %d is out of range: 1 to 65535, 0 for none", n)
	}
	if n := req.GetUnderlayMtu(); n != 0 && (n < minUnderlayMTU || n > maxUnderlayMTU) {
		return d, fmt.Errorf("underlay_mtu %d is out of range: %d to %d, 0 to find it", n, minUnderlayMTU, maxUnderlayMTU)
	}
	d.port, d.control, d.underlay = int(req.GetListenPort()), uint16(req.GetControlPort()), int(req.GetUnderlayMtu())
	if len(req.GetOwnPublicKey()) > 0 || len(req.GetPeers()) > 0 {
		if d.own, err = parseKey(req.GetOwnPublicKey()); err != nil {
			return d, fmt.Errorf("own_public_key %w", err)
		}
	}
	if n := len(req.GetPeers()) + len(req.GetRemoved()); n > 2*maxPeers {
		return d, fmt.Errorf("%d changes of peers exceed the limit of %d", n, 2*maxPeers)
	}
	seen := make(map[string]bool, len(req.GetPeers()))
	once := func(id string) error {
		if !ident.Valid(id) {
			return fmt.Errorf("node_id %.40q is no node id", id)
		}
		if seen[id] {
			return fmt.Errorf("node %s stands twice in one declaration", id)
		}
		seen[id] = true
		return nil
	}
	for _, in := range req.GetPeers() {
		if err := once(in.GetNodeId()); err != nil {
			return d, err
		}
		p, err := parsePeer(in, d.address)
		if err != nil {
			return d, fmt.Errorf("node %s: %w", in.GetNodeId(), err)
		}
		d.upsert = append(d.upsert, p)
	}
	for _, id := range req.GetRemoved() {
		if err := once(id); err != nil {
			return d, err
		}
		d.removed = append(d.removed, id)
	}
	return d, nil
}

// forget wipes the request's pre-shared keys.
func forget(req *netdpb.FabricRequest) {
	for _, p := range req.GetPeers() {
		clear(p.GetPresharedKey())
		clear(p.GetNext().GetPresharedKey())
	}
}

func parseAddress(s string) (netip.Prefix, error) {
	p, err := netip.ParsePrefix(s)
	switch {
	case err != nil:
		return p, fmt.Errorf("address %.60q is no address with prefix length, such as 198.18.0.7/15", s)
	case !p.Addr().Is4():
		return p, fmt.Errorf("address %s: mesh addresses are IPv4", p)
	case p.Bits() < minPrefix || p.Bits() > maxPrefix:
		return p, fmt.Errorf("address %s: the prefix length must be %d to %d", p, minPrefix, maxPrefix)
	case !p.Addr().IsGlobalUnicast() || !isHost(p.Addr(), p):
		return p, fmt.Errorf("address %s is no host of its own prefix", p)
	}
	return p, nil
}

// isHost reports whether the address is a host of the prefix: neither its first
// nor its last address.
func isHost(a netip.Addr, p netip.Prefix) bool {
	if !a.Is4() || !p.Contains(a) {
		return false
	}
	b := a.As4()
	host := (uint32(b[0])<<24 | uint32(b[1])<<16 | uint32(b[2])<<8 | uint32(b[3])) << p.Bits() >> p.Bits()
	return host != 0 && bits.OnesCount32(host) != 32-p.Bits()
}

func parsePeer(in *netdpb.FabricPeer, mesh netip.Prefix) (p *peer, err error) {
	p = &peer{node: in.GetNodeId()}
	if p.key, err = parseKey(in.GetPublicKey()); err != nil {
		return nil, fmt.Errorf("public_key %w", err)
	}
	if p.psk, err = parsePSK(in.GetPresharedKey()); err != nil {
		return nil, fmt.Errorf("preshared_key %w", err)
	}
	if in.GetNext() != nil {
		p.next = &nextKey{}
		if p.next.key, err = parseKey(in.GetNext().GetPublicKey()); err != nil {
			return nil, fmt.Errorf("next public_key %w", err)
		}
		if p.next.psk, err = parsePSK(in.GetNext().GetPresharedKey()); err != nil {
			return nil, fmt.Errorf("next preshared_key %w", err)
		}
	}
	if p.addr, err = netip.ParseAddr(in.GetAddress()); err != nil || !isHost(p.addr, mesh) || p.addr == mesh.Addr() {
		return nil, fmt.Errorf("address %.60q is no other host of the mesh %s", in.GetAddress(), mesh.Masked())
	}
	if s := in.GetEndpoint(); s != "" {
		if p.endpoint, err = netip.ParseAddrPort(s); err != nil || p.endpoint.Port() == 0 {
			return nil, fmt.Errorf("endpoint %.80q is no address:port", s)
		}
		a := p.endpoint.Addr().Unmap()
		p.endpoint = netip.AddrPortFrom(a, p.endpoint.Port())
		if !a.IsGlobalUnicast() && !a.IsLinkLocalUnicast() || a.IsLoopback() || mesh.Contains(a) {
			return nil, fmt.Errorf("endpoint %s is no address of the underlay: a tunnel cannot go through itself, nor to many", p.endpoint)
		}
	}
	p.keepalive = time.Duration(in.GetKeepaliveSeconds()) * time.Second
	if p.keepalive > maxKeepalive {
		return nil, fmt.Errorf("keepalive of %s exceeds the limit of %s", p.keepalive, maxKeepalive)
	}
	if p.mtu = int(in.GetMtu()); p.mtu != 0 && (p.mtu < minUnderlayMTU-tunnelOverhead || p.mtu > maxUnderlayMTU-tunnelOverhead) {
		return nil, fmt.Errorf("mtu %d is out of range: %d to %d, 0 where it is not known", in.GetMtu(), minUnderlayMTU-tunnelOverhead, maxUnderlayMTU-tunnelOverhead)
	}
	return p, nil
}

func parseKey(b []byte) (k wgtypes.Key, err error) {
	if len(b) != len(k) {
		return k, fmt.Errorf("has %d bytes, want %d", len(b), len(k))
	}
	k = wgtypes.Key(b)
	if k == (wgtypes.Key{}) {
		return k, errors.New("is zero")
	}
	return k, nil
}

// parsePSK does not quote what it refuses.
func parsePSK(b []byte) (p psk, err error) {
	if len(b) != len(p) {
		return p, errors.New("is missing or not 32 bytes long: no peer goes without one")
	}
	p = psk(b)
	if p == (psk{}) {
		return p, errors.New("is zero: no peer goes without one")
	}
	return p, nil
}
