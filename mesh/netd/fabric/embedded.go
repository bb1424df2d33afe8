package fabric

import (
	"errors"
	"fmt"
	"syscall"

	"github.com/vishvananda/netlink"
	"golang.zx2c4.com/wireguard/conn"
	"golang.zx2c4.com/wireguard/device"
	"golang.zx2c4.com/wireguard/wgctrl/wgtypes"

	"github.com/redoubt-cluster/redoubt/mesh/netd/fasttap"
	"github.com/redoubt-cluster/redoubt/mesh/netd/internal/kernel"
)

// embedded is wireguard-go in this process. Nobody else configures it: that is done
// by calls, and there is no socket for it. ServeTool shows what is public of it.
type embedded struct {
	dev  *device.Device
	link fasttap.Interface
}

// openEmbedded attaches to the interface of that name and makes it if there is
// none. It stays when the process ends, with its addresses and whatever was built
// on it, and lets nothing through then.
func (f *Fabric) openEmbedded() (*embedded, error) {
	link, err := fasttap.Open(f.link, fasttap.Config{MTU: defaultUnderlayMTU - tunnelOverhead, VXLANPort: vxlanPort, Best: f.best, Keep: true})
	if err != nil {
		return nil, err
	}
	bind := fasttap.NewBind()
	if link.Mode() == fasttap.Stock {
		bind = conn.NewDefaultBind() // a machine that lacks the one may lack the other
	}
	f.log.Info("wireguard-go", "mode", link.Mode(), "why", link.Why())
	dev := device.NewDevice(link, bind, &device.Logger{
		Verbosef: device.DiscardLogf,
		// What it says names no key: peers are shortened to eight characters
		// of their public ones.
		Errorf: func(format string, args ...any) { f.log.Warn("wireguard: " + fmt.Sprintf(format, args...)) },
	})
	return &embedded{dev: dev, link: link}, nil
}

// replaceTUN deletes the TUN interface of an earlier netd where the machine has a
// better one. What stands on it goes with it, and is put back by who made it: it
// carried nothing, as WireGuard's sessions ended with that netd.
func (f *Fabric) replaceTUN(h *netlink.Handle, link netlink.Link) error {
	if t, ok := link.(*netlink.Tuntap); !ok || t.Mode != netlink.TUNTAP_MODE_TUN || f.best == fasttap.Stock {
		return nil
	}
	if mode, _, err := probeEmbedded(h); err != nil || mode == fasttap.Stock {
		return err
	}
	// Not one that somebody uses.
	old, err := fasttap.Open(f.link, fasttap.Config{MTU: link.Attrs().MTU, Best: fasttap.Stock, Keep: true})
	if err != nil {
		return err
	}
	f.log.Info("the TUN interface of an earlier netd is replaced by a faster one", "interface", f.link)
	return kernel.OneLine(kernel.DeleteLink(h, link), old.Close())
}

// probeEmbedded says which mode the embedded driver would have, and why no better
// one. It leaves nothing behind.
func probeEmbedded(h *netlink.Handle) (mode fasttap.Mode, why string, err error) {
	old, err := kernel.FindLink(h, probeLink)
	if err == nil && old != nil {
		err = kernel.DeleteLink(h, old)
	}
	if err != nil {
		return 0, "", err
	}
	d, err := fasttap.Open(probeLink, fasttap.Config{MTU: defaultUnderlayMTU - tunnelOverhead, VXLANPort: vxlanPort})
	if err != nil {
		return 0, "", err
	}
	return d.Mode(), d.Why(), d.Close()
}

// mode says how packets are moved.
func (e *embedded) mode() string {
	if e.link.Counters().Unmerged > 0 {
		return e.link.Mode().String() + ", not merging VXLAN: the kernel refused it"
	}
	return e.link.Mode().String()
}

func (e *embedded) followMTU(mtu int) { e.link.FollowMTU(mtu) }

func (e *embedded) alive() bool {
	select {
	case <-e.dev.Wait():
		return false
	default:
		return true
	}
}

func (e *embedded) close() { e.dev.Close() }

func (e *embedded) configure(c wgtypes.Config) error {
	if c.PrivateKey != nil {
		key := device.NoisePrivateKey(*c.PrivateKey)
		err := e.dev.SetPrivateKey(key)
		clear(key[:])
		if err != nil {
			return err
		}
	}
	text := encode(c)
	defer clear(text)
	if len(text) > 0 {
		if err := e.set(text); err != nil {
			return err
		}
	}
	// The socket is opened with the port already known.
	if err := e.dev.Up(); err != nil {
		if errors.Is(err, syscall.EADDRINUSE) {
			return syscall.EADDRINUSE
		}
		return fmt.Errorf("open the WireGuard socket: %w", err)
	}
	return nil
}

func (e *embedded) set(text []byte) error {
	r := reader(text)
	err := e.dev.IpcSetOperation(&r)
	if errors.Is(err, syscall.EADDRINUSE) {
		return syscall.EADDRINUSE
	}
	if err != nil {
		// The library quotes lines it does not understand, and lines hold keys.
		return errors.New("wireguard-go refused its configuration")
	}
	return nil
}

func (e *embedded) read() (*status, error) {
	var text buffer
	if err := e.dev.IpcGetOperation(&text); err != nil {
		return nil, err
	}
	defer clear(text)
	return decode(text)
}
