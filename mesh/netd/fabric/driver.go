package fabric

import (
	"errors"
	"net/netip"
	"time"

	"golang.zx2c4.com/wireguard/wgctrl"
	"golang.zx2c4.com/wireguard/wgctrl/wgtypes"
)

// Names of the drivers, as people read them.
const (
	driverKernel   = "kernel"
	driverEmbedded = "embedded"
)

// A driver is the WireGuard behind the interface. Its methods are called on a
// thread in the node's namespace.
type driver interface {
	// configure changes what the configuration names and nothing else.
	configure(wgtypes.Config) error
	read() (*status, error)
	// alive is false once the driver works no more.
	alive() bool
	// followMTU is told the interface's new MTU.
	followMTU(mtu int)
	// close lets go; the interface stays.
	close()
}

// status is what a device says of itself.
type status struct {
	public wgtypes.Key
	port   int
	peers  map[wgtypes.Key]peerStatus
}

type peerStatus struct {
	entry
	handshake      time.Time // zero: none yet
	received, sent int64
	moreAllowed    bool // it may send from more than one address
}

// kernelDriver speaks to the kernel's WireGuard.
type kernelDriver struct {
	name   string
	client *wgctrl.Client
}

func newKernelDriver(name string) (*kernelDriver, error) {
	c, err := wgctrl.New() // its socket stays in the namespace it was opened in
	if err != nil {
		return nil, err
	}
	return &kernelDriver{name, c}, nil
}

func (d *kernelDriver) configure(c wgtypes.Config) error { return d.client.ConfigureDevice(d.name, c) }

func (d *kernelDriver) read() (*status, error) {
	dev, err := d.client.Device(d.name)
	if err != nil {
		return nil, err
	}
	defer wipe(dev)
	return statusOf(dev), nil
}

// key reads the private key of an interface that an earlier process made.
func (d *kernelDriver) key(into []byte) error {
	dev, err := d.client.Device(d.name)
	if err != nil {
		return err
	}
	defer wipe(dev)
	if dev.PrivateKey == (wgtypes.Key{}) {
		return errors.New("the interface has no private key")
	}
	copy(into, dev.PrivateKey[:])
	return nil
}

func (d *kernelDriver) alive() bool   { return true }
func (d *kernelDriver) followMTU(int) {}
func (d *kernelDriver) close()        { d.client.Close() }

func wipe(dev *wgtypes.Device) {
	clear(dev.PrivateKey[:])
	for i := range dev.Peers {
		clear(dev.Peers[i].PresharedKey[:])
	}
}

func statusOf(dev *wgtypes.Device) *status {
	s := &status{public: dev.PublicKey, port: dev.ListenPort, peers: make(map[wgtypes.Key]peerStatus, len(dev.Peers))}
	for _, p := range dev.Peers {
		x := peerStatus{handshake: p.LastHandshakeTime, received: p.ReceiveBytes, sent: p.TransmitBytes, moreAllowed: len(p.AllowedIPs) > 1}
		x.psk, x.keepalive = psk(p.PresharedKey), p.PersistentKeepaliveInterval
		if p.Endpoint != nil {
			a := p.Endpoint.AddrPort()
			x.endpoint = netip.AddrPortFrom(a.Addr().Unmap(), a.Port())
		}
		if len(p.AllowedIPs) == 1 {
			a, ok := netip.AddrFromSlice(p.AllowedIPs[0].IP)
			ones, _ := p.AllowedIPs[0].Mask.Size()
			if a = a.Unmap(); ok && a.Is4() && ones == 32 {
				x.addr = a
			} else {
				x.moreAllowed = true
			}
		}
		s.peers[p.PublicKey] = x
	}
	return s
}

// entries are what the device has, for a differ that does not know.
func (s *status) entries() entries {
	have := make(entries, len(s.peers))
	for k, p := range s.peers {
		e := p.entry
		if p.moreAllowed {
			e.addr = netip.IPv4Unspecified() // differs from whatever is wanted
		}
		have[k] = e
	}
	return have
}
