package fabric

import (
	"crypto/fips140"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/vishvananda/netlink"
	"golang.zx2c4.com/wireguard/wgctrl/wgtypes"

	"github.com/redoubt-cluster/redoubt/mesh/netd/netdpb"
)

// State tells what is in force. It is also how the node's public key is learned.
func (f *Fabric) State() (*netdpb.FabricStateResponse, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if err := f.ensureKey(); err != nil {
		return nil, err
	}
	r := &netdpb.FabricStateResponse{Generation: f.plan.generation, PublicKey: f.current.public[:], ListenPort: uint32(f.port),
		Interface: f.link, Mtu: uint32(f.mtu), Repairs: f.repairs}
	if f.next != nil {
		r.NextPublicKey = f.next.public[:]
	}
	r.Driver, r.Mode = f.inUse()
	for _, a := range f.underlay {
		r.Underlay = append(r.Underlay, a.String())
	}
	if f.degraded != nil {
		r.Degraded = f.degraded.Error()
	}
	err := f.inside(func(*netlink.Handle) error {
		r.Dropped = f.table.counters()
		if e, ok := f.driver.(*embedded); ok {
			if n := e.link.Counters().Refused; n > 0 {
				r.Dropped[notUnderstood] = n
			}
		}
		if f.driver == nil {
			return nil
		}
		s, err := f.driver.read()
		if err != nil {
			return fmt.Errorf("read the WireGuard interface: %w", err)
		}
		for k, p := range s.peers {
			id := f.plan.keys[k]
			if e, ok := f.plan.want(k, f.turned); !ok || !e.addr.IsValid() {
				continue // not, or not yet, the key in force
			}
			r.Peers = append(r.Peers, peerState(id, k, p))
		}
		slices.SortFunc(r.Peers, func(a, b *netdpb.FabricPeerState) int { return strings.Compare(a.GetNodeId(), b.GetNodeId()) })
		return nil
	})
	return r, err
}

func peerState(id string, k wgtypes.Key, p peerStatus) *netdpb.FabricPeerState {
	s := &netdpb.FabricPeerState{NodeId: id, PublicKey: k[:], ReceivedBytes: uint64(p.received), SentBytes: uint64(p.sent)}
	if p.endpoint.IsValid() {
		s.Endpoint = p.endpoint.String()
	}
	if !p.handshake.IsZero() {
		age := uint64(max(0, time.Since(p.handshake).Milliseconds()))
		s.HandshakeAgeMs = &age
	}
	return s
}

// inUse names the driver and how it moves packets.
func (f *Fabric) inUse() (driver, mode string) {
	switch d := f.driver.(type) {
	case *kernelDriver:
		return driverKernel, "kernel"
	case *embedded:
		return driverEmbedded, d.mode()
	}
	return "", ""
}

// Probe looks which driver this node has. It leaves nothing behind.
func (f *Fabric) Probe() *netdpb.Feature {
	f.mu.Lock()
	defer f.mu.Unlock()
	r := &netdpb.Feature{Name: "wireguard"}
	if fips140.Enforced() {
		r.Detail = errFIPS.Error()
		return r
	}
	err := f.inside(func(h *netlink.Handle) error {
		if driver, mode := f.inUse(); driver != "" {
			r.Detail = fmt.Sprintf("%s driver in force, %s", driver, mode)
			return nil
		}
		has, err := kernelHas(h)
		if has || err != nil {
			r.Detail = "the kernel's"
			return err
		}
		mode, why, err := probeEmbedded(h)
		r.Detail = fmt.Sprintf("this kernel has none: wireguard-go inside netd, %s", mode)
		if why != "" {
			r.Detail += " (" + why + ")"
		}
		return err
	})
	r.Present = err == nil
	if err != nil {
		r.Detail = "no mesh on this node: " + err.Error()
	}
	return r
}
