package fasttap

import (
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"
	"golang.zx2c4.com/wireguard/tun"
)

// devicePath is where the kernel gives and takes the packets of such interfaces.
const devicePath = "/dev/net/tun"

var errInUse = errors.New("another process uses it")

func openDevice() (fd int, err error) {
	fd, err = unix.Open(devicePath, unix.O_RDWR|unix.O_CLOEXEC|unix.O_NONBLOCK, 0)
	switch {
	case errors.Is(err, os.ErrPermission):
		return -1, fmt.Errorf("%s is closed to netd's user: it must be readable and writable by it, mode 0666 as on Debian: %w", devicePath, err)
	case err != nil:
		return -1, fmt.Errorf("%s: %w: load the module tun, or use a kernel with WireGuard", devicePath, err)
	}
	return fd, nil
}

// attach makes the descriptor the interface's of that name and kind (IFF_TUN or
// IFF_TAP). It is made if there is none; unless it is to be kept, there must be
// none.
func attach(fd int, name string, kind uint16, keep bool) error {
	req, err := unix.NewIfreq(name)
	if err != nil {
		return fmt.Errorf("interface name %q: %w", name, err)
	}
	kind |= unix.IFF_NO_PI | unix.IFF_VNET_HDR
	if !keep {
		kind |= unix.IFF_TUN_EXCL
	}
	req.SetUint16(kind)
	switch err := unix.IoctlIfreq(fd, unix.TUNSETIFF, req); {
	case errors.Is(err, unix.EBUSY):
		return fmt.Errorf("interface %s: %w: stop it, the name is netd's", name, errInUse)
	case err != nil:
		return fmt.Errorf("attach to interface %s: %w", name, err)
	}
	return nil
}

// persist keeps the interface when the process ends, with its addresses and
// whatever was built on it; it lets nothing through then. Nobody else may attach
// to it: an owner is set, which even CAP_NET_ADMIN elsewhere is not.
func persist(fd int, name string) error {
	for _, set := range []struct {
		request uint
		value   int
	}{{unix.TUNSETOWNER, 0}, {unix.TUNSETGROUP, 0}, {unix.TUNSETPERSIST, 1}} {
		if err := unix.IoctlSetInt(fd, set.request, set.value); err != nil {
			return fmt.Errorf("keep interface %s: %w", name, err)
		}
	}
	return nil
}

// A stock is wireguard-go's interface.
type stock struct {
	tun.Device
	*signals
	why string
}

// openStock takes the descriptor, which is in any case closed with the
// interface.
func openStock(fd int, name string, cfg Config) (_ *stock, err error) {
	if err = attach(fd, name, unix.IFF_TUN, cfg.Keep); err == nil && cfg.Keep {
		err = persist(fd, name)
	}
	if err == nil {
		err = shapeStock(name, cfg)
	}
	if err != nil {
		unix.Close(fd)
		return nil, err
	}
	// The library's watcher of the interface is left out: it looks at the
	// namespace that it happens to run in.
	d, _, err := tun.CreateUnmonitoredTUNFromFD(fd)
	if err != nil {
		return nil, err
	}
	return &stock{Device: d, signals: newSignals(cfg.MTU)}, nil
}

func shapeStock(name string, cfg Config) error {
	l, err := openLinks(name)
	if err != nil {
		return err
	}
	defer l.close()
	return l.setMTU(cfg.MTU)
}

func (*stock) Mode() Mode                 { return Stock }
func (s *stock) Why() string              { return s.why }
func (*stock) Counters() Counters         { return Counters{} }
func (s *stock) MTU() (int, error)        { return s.signals.MTU() }
func (s *stock) Events() <-chan tun.Event { return s.signals.Events() }

func (s *stock) Close() error {
	s.signals.end()
	return s.Device.Close()
}
