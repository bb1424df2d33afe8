// Package fasttap is the interface through which a node without WireGuard in its
// kernel sends its overlays: a tun.Device for wireguard-go, and a conn.Bind, for
// the way that VXLAN takes through it.
//
// A kernel hands large TCP data down its layers as one super-packet of up to
// 64 KiB, and cuts it where it leaves the machine. Stock wireguard-go takes
// super-packets from its TUN interface, cuts them by itself, and has one system
// call a hundred packets less. But not those of VXLAN: a TUN interface cannot
// say "segment what is inside this UDP", so the kernel cuts every one of them
// before, each packet makes its own way through routing, filters and a read, and
// two thirds of the speed are gone.
//
// A TAP interface can say it since Linux 6.17: TUNSETOFFLOAD takes
// TUN_F_UDP_TUNNEL_GSO. So the interface is a TAP that poses as the layer 3
// interface that WireGuard is. It has no ARP; the Ethernet header is cut off
// before wireguard-go sees a packet and put on before the kernel does. Read cuts
// super-packets; Write verifies and merges what one peer sent into super-packets
// again, which the kernel's VXLAN, routing and veths take as one.
//
// # What is on the wire
//
// Exactly what a kernel with WireGuard would send: each WireGuard message
// carries one IP packet within the interface's MTU, with the headers that the
// kernel's own segmentation would have written. The other end may be a kernel, a
// stock wireguard-go, or this; none can tell.
//
// # What is never done
//
// Packets arrive from other nodes: they are authentic, and may be hostile. A
// packet is merged only where taking the result apart gives back every byte of
// what came, with checksums that were verified before: see merger and the tests
// that say so of random input. Whatever else comes (fragments, IP options, VLAN
// tags, unknown protocols, wrong checksums, wrong lengths) is passed on as it
// came, one packet a frame. Within a connection the order stays. Only IPv4 is
// looked into as the outer header, as mesh addresses are IPv4; VXLAN in IPv6 is
// passed on, but not merged. A super-packet of the kernel that does not fit its
// own description is dropped and counted, never sent half.
//
// # Modes
//
// Open takes the best of three that the machine has, and says which and why:
//
//   - TunnelGSO, as above;
//   - Batch, before Linux 6.17: the same interface without the tunnel. The
//     kernel cuts VXLAN, but a Read takes all packets that wait, which lets
//     wireguard-go encrypt and send them together;
//   - Stock: wireguard-go's own TUN interface.
//
// A merged packet that the kernel refuses after all is written again in parts,
// and tunnels are not merged any more: slower, and visible in Counters.
//
// # Use
//
//	dev, err := fasttap.Open("redoubt0", fasttap.Config{MTU: 1420, VXLANPort: 4789})
//	log.Info("interface", "mode", dev.Mode(), "why", dev.Why())
//	wg := device.NewDevice(dev, fasttap.NewBind(), logger)
//
// Open makes the interface in the network namespace of the calling thread, and
// it must stay there. It makes no address and no route, and does not set it up.
// wireguard-go is to be told up and down by its user, and hears of another MTU
// through FollowMTU.
//
// An interface that is to be kept (Config.Keep) is attached to where there is
// one, and outlives the process. It must be of the kind that is wanted: see
// Config.Best.
package fasttap

import (
	"errors"
	"fmt"

	"golang.zx2c4.com/wireguard/tun"
)

// A Mode is a way to take packets from the kernel and to give them to it.
type Mode uint8

const (
	// Stock is wireguard-go's own TUN interface.
	Stock Mode = iota + 1
	// Batch is a TAP interface whose packets are read in batches.
	Batch
	// TunnelGSO takes and gives the super-packets of VXLAN too.
	TunnelGSO
)

func (m Mode) String() string {
	switch m {
	case Stock:
		return "stock"
	case Batch:
		return "batch"
	case TunnelGSO:
		return "tunnel-gso"
	}
	return fmt.Sprintf("mode %d", uint8(m))
}

// Config is what an interface is made with.
type Config struct {
	MTU int
	// VXLANPort is the UDP port whose datagrams are looked into; 0: none.
	VXLANPort uint16
	// Best is the best mode to try; 0: any. Stock is a TUN interface and the
	// others are a TAP: one does not attach to the other.
	Best Mode
	// Keep attaches to the interface if there is one, and leaves it when the
	// process ends or Close is called. Nobody else can attach to it then.
	Keep bool
}

// An Interface is a tun.Device that says how it works.
type Interface interface {
	tun.Device
	Mode() Mode
	// Why says why there is no better mode; empty where there is none.
	Why() string
	Counters() Counters
	// FollowMTU is to be called when the interface has another one.
	FollowMTU(mtu int)
}

// Counters are of packets since the interface was made.
type Counters struct {
	// Cut is how many packets were made of super-packets read; Merged is how
	// many came into super-packets written.
	Cut, Merged uint64
	// Refused is how many super-packets the kernel gave that were not
	// understood, and Unmerged how many it did not take.
	Refused, Unmerged uint64
}

// Open makes the interface, or attaches to it, in the best mode there is.
func Open(name string, cfg Config) (Interface, error) {
	if cfg.MTU < minMTU || cfg.MTU > maxMTU {
		return nil, fmt.Errorf("MTU %d: an interface has %d to %d", cfg.MTU, minMTU, maxMTU)
	}
	mode := cfg.Best
	if mode == 0 {
		mode = TunnelGSO
	}
	var reasons []error
	for ; ; mode-- {
		fd, err := openDevice()
		if err != nil {
			return nil, err
		}
		if mode == Stock {
			d, err := openStock(fd, name, cfg)
			if err != nil {
				return nil, errors.New(why(append(reasons, err)))
			}
			d.why = why(reasons)
			return d, nil
		}
		d, err := openTAP(fd, name, cfg, mode)
		if err == nil {
			d.why = why(reasons)
			return d, nil
		}
		if errors.Is(err, errInUse) {
			return nil, err
		}
		reasons = append(reasons, fmt.Errorf("no %s: %w", mode, err))
	}
}

// why makes one line of errors.
func why(reasons []error) (s string) {
	for _, err := range reasons {
		if s != "" {
			s += "; "
		}
		s += err.Error()
	}
	return s
}
