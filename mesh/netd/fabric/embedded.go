package fabric

import (
	"errors"
	"fmt"
	"log/slog"
	"os"
	"sync"
	"sync/atomic"
	"syscall"

	"golang.org/x/sys/unix"
	"golang.zx2c4.com/wireguard/conn"
	"golang.zx2c4.com/wireguard/device"
	"golang.zx2c4.com/wireguard/tun"
	"golang.zx2c4.com/wireguard/wgctrl/wgtypes"
)

// embedded is wireguard-go in this process. Nobody else can speak to it: it is
// configured by calls, and has no socket for that.
type embedded struct {
	dev  *device.Device
	tun  *tunnel
	mode string
}

// newEmbedded takes over the descriptor of the TUN device, which is in any case
// closed with the driver.
func newEmbedded(fd int, mtu int, log *slog.Logger) (*embedded, error) {
	native, _, err := tun.CreateUnmonitoredTUNFromFD(fd)
	if err != nil {
		return nil, err
	}
	t := &tunnel{Device: native, events: make(chan tun.Event, 1)}
	t.mtu.Store(int32(mtu))
	dev := device.NewDevice(t, conn.NewDefaultBind(), &device.Logger{
		Verbosef: device.DiscardLogf,
		// What it says names no key: peers are shortened to eight characters
		// of their public ones.
		Errorf: func(format string, args ...any) { log.Warn("wireguard: " + fmt.Sprintf(format, args...)) },
	})
	return &embedded{dev: dev, tun: t, mode: "tun"}, nil
}

// tunnel is a tun.Device whose events are ours: the library's own watcher looks
// at interfaces of the namespace it happens to run in.
type tunnel struct {
	tun.Device
	mtu atomic.Int32

	mu     sync.Mutex     // guards the following
	events chan tun.Event // closed by Close
	closed bool
}

func (t *tunnel) MTU() (int, error)        { return int(t.mtu.Load()), nil }
func (t *tunnel) Events() <-chan tun.Event { return t.events }

func (t *tunnel) Close() error {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.closed {
		return nil
	}
	t.closed = true
	close(t.events)
	return t.Device.Close()
}

func (e *embedded) followMTU(mtu int) {
	old := e.tun.mtu.Swap(int32(mtu))
	e.tun.mu.Lock()
	defer e.tun.mu.Unlock()
	if old != int32(mtu) && !e.tun.closed {
		select {
		case e.tun.events <- tun.EventMTUUpdate:
		default: // one waits already and will find this value
		}
	}
}

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

// openTUN attaches to the TUN device of that name and makes it if there is none.
// It stays when the process ends, with its addresses and whatever was built on
// it, and lets nothing through then. Nobody else may attach to it: an owner is
// set, which even CAP_NET_ADMIN elsewhere is not.
func openTUN(name string) (fd int, err error) {
	const path = "/dev/net/tun"
	fd, err = unix.Open(path, unix.O_RDWR|unix.O_CLOEXEC, 0)
	switch {
	case errors.Is(err, os.ErrPermission):
		return -1, fmt.Errorf("%s is closed to netd's user: it must be readable and writable by it, mode 0666 as on Debian: %w", path, err)
	case err != nil:
		return -1, fmt.Errorf("%s: %w: load the module tun, or use a kernel with WireGuard", path, err)
	}
	if err = attachTUN(fd, name); err != nil {
		unix.Close(fd)
		return -1, err
	}
	return fd, nil
}

func attachTUN(fd int, name string) error {
	ifr, err := unix.NewIfreq(name)
	if err != nil {
		return err
	}
	ifr.SetUint16(unix.IFF_TUN | unix.IFF_NO_PI | unix.IFF_VNET_HDR)
	if err := unix.IoctlIfreq(fd, unix.TUNSETIFF, ifr); err != nil {
		if errors.Is(err, unix.EBUSY) {
			return fmt.Errorf("interface %s is in use by another process: stop it, the name is netd's", name)
		}
		return fmt.Errorf("attach to interface %s: %w", name, err)
	}
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
