package fasttap

import (
	"fmt"
	"os"
	"sync"
	"sync/atomic"
	"syscall"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// A tap is the interface in the modes TunnelGSO and Batch.
type tap struct {
	file  *os.File
	raw   syscall.RawConn
	mode  Mode
	why   string
	links *links
	done  sync.WaitGroup // the goroutine that follows the link
	*signals

	closing chan struct{} // closed by Close
	once    sync.Once

	read  reader
	write writer

	cut, merged, refused, unmerged atomic.Uint64
}

// openTAP makes the interface or attaches to it, or says what the kernel lacks.
// It takes the descriptor. Nothing is left of an interface it made where it fails.
func openTAP(fd int, name string, cfg Config, mode Mode) (_ *tap, err error) {
	d := &tap{mode: mode, signals: newSignals(cfg.MTU), closing: make(chan struct{})}
	defer func() {
		if err == nil {
			return
		}
		if d.links != nil {
			d.links.close()
		}
		if d.file == nil {
			unix.Close(fd)
		} else {
			d.file.Close()
		}
	}()
	if err := attach(fd, name, unix.IFF_TAP, cfg.Keep); err != nil {
		return nil, err
	}
	udp, err := offload(fd, mode)
	if err != nil {
		return nil, err
	}
	// Only now: a descriptor without an interface cannot be waited for.
	d.file = os.NewFile(uintptr(fd), devicePath)
	if d.raw, err = d.file.SyscallConn(); err != nil {
		return nil, err
	}
	if d.links, err = openLinks(name); err != nil {
		return nil, err
	}
	if err := pose(d.links, cfg.MTU); err != nil {
		return nil, err
	}
	mac, err := d.links.mac()
	if err != nil {
		return nil, err
	}
	d.read.init(d)
	d.write.init(d, cfg.VXLANPort, udp)
	d.write.setMAC(mac)
	if cfg.Keep {
		if err := persist(fd, name); err != nil {
			return nil, err
		}
	}
	d.done.Go(d.follow)
	return d, nil
}

// offload asks for frames with descriptions, and for all super-packets there
// are. udp says whether plain UDP is among them, which Linux 6.1 does not have.
func offload(fd int, mode Mode) (udp bool, err error) {
	if err := unix.IoctlSetPointerInt(fd, unix.TUNSETVNETHDRSZ, vnetLen); err != nil {
		return false, fmt.Errorf("set the length of the kernel's headers: %w", err)
	}
	if err := unix.IoctlSetPointerInt(fd, unix.TUNSETVNETLE, 1); err != nil {
		return false, fmt.Errorf("set the byte order of the kernel's headers: %w", err)
	}
	want := unix.TUN_F_CSUM | unix.TUN_F_TSO4 | unix.TUN_F_TSO6
	if mode == TunnelGSO {
		want |= offloadTunnel | offloadTunnelChecksum
	}
	if unix.IoctlSetInt(fd, unix.TUNSETOFFLOAD, want|unix.TUN_F_USO4|unix.TUN_F_USO6) == nil {
		return true, nil
	}
	if err := unix.IoctlSetInt(fd, unix.TUNSETOFFLOAD, want); err != nil {
		return false, fmt.Errorf("the kernel has no such segmentation offload: %w", err)
	}
	return false, nil
}

// pose makes the TAP look like a layer 3 interface: it asks nobody for hardware
// addresses, and has no address of its own making.
func pose(l *links, mtu int) error {
	if err := l.setMTU(mtu); err != nil {
		return err
	}
	if err := l.setNoARP(); err != nil {
		return err
	}
	link, err := netlink.LinkByName(l.name)
	if err != nil {
		return fmt.Errorf("look at %s: %w", l.name, err)
	}
	// A kernel without IPv6 has nothing to switch off.
	if _, err := os.Stat("/proc/sys/net/ipv6"); err != nil {
		return nil
	}
	if err := netlink.LinkSetIP6AddrGenMode(link, addrGenNone); err != nil {
		return fmt.Errorf("switch off link-local addresses of %s: %w", l.name, err)
	}
	return nil
}

func (d *tap) Mode() Mode  { return d.mode }
func (d *tap) Why() string { return d.why }

func (d *tap) Counters() Counters {
	return Counters{Cut: d.cut.Load(), Merged: d.merged.Load(), Refused: d.refused.Load(), Unmerged: d.unmerged.Load()}
}

func (d *tap) File() *os.File        { return d.file }
func (d *tap) Name() (string, error) { return d.links.name, nil }
func (d *tap) BatchSize() int        { return batchSize }

func (d *tap) closed() bool {
	select {
	case <-d.closing:
		return true
	default:
		return false
	}
}

// Close lets go of the interface, which goes unless it is kept, and waits for the
// goroutine that follows it. Whoever waits in Read returns.
func (d *tap) Close() (err error) {
	d.once.Do(func() {
		close(d.closing)
		err = d.file.Close()
		d.links.close()
		d.done.Wait()
		d.signals.end()
	})
	return err
}
