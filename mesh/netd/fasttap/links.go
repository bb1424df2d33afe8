package fasttap

import (
	"errors"
	"fmt"
	"os"
	"sync"
	"unsafe"

	"golang.org/x/sys/unix"
)

// links looks at one interface and hears when any changes. It keeps sockets of
// the namespace it was made in, so its methods may be called from any thread.
type links struct {
	name    string
	notices *os.File // netlink

	mu      sync.Mutex // guards control
	control int        // any socket: interfaces are asked about through it; -1: closed
}

func openLinks(name string) (*links, error) {
	control, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("open a socket to look at interfaces: %w", err)
	}
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, unix.NETLINK_ROUTE)
	if err == nil {
		if err = unix.Bind(fd, &unix.SockaddrNetlink{Family: unix.AF_NETLINK, Groups: unix.RTMGRP_LINK}); err != nil {
			unix.Close(fd)
		}
	}
	if err != nil {
		unix.Close(control)
		return nil, fmt.Errorf("hear about changes of interfaces: %w", err)
	}
	return &links{name: name, control: control, notices: os.NewFile(uintptr(fd), "rtnetlink")}, nil
}

// close ends a wait.
func (l *links) close() {
	l.notices.Close()
	l.mu.Lock()
	defer l.mu.Unlock()
	unix.Close(l.control)
	l.control = -1
}

// changed waits until some interface may have changed; false: closed.
func (l *links) changed(buf []byte) bool {
	for {
		_, err := l.notices.Read(buf)
		// Notices that were lost are notices too.
		if err == nil || errors.Is(err, unix.ENOBUFS) {
			return true
		}
		if !errors.Is(err, unix.EINTR) {
			return false
		}
	}
}

// ifreq is struct ifreq, whose union x/sys/unix does not show whole.
type ifreq struct {
	name [unix.IFNAMSIZ]byte
	data [24]byte
}

func (l *links) ioctl(what uint, r *ifreq) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.control < 0 {
		return os.ErrClosed
	}
	copy(r.name[:unix.IFNAMSIZ-1], l.name)
	_, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(l.control), uintptr(what), uintptr(unsafe.Pointer(r)))
	if errno != 0 {
		return errno
	}
	return nil
}

func (l *links) setMTU(mtu int) error {
	var r ifreq
	*(*int32)(unsafe.Pointer(&r.data)) = int32(mtu)
	if err := l.ioctl(unix.SIOCSIFMTU, &r); err != nil {
		return fmt.Errorf("set the MTU of %s to %d: %w", l.name, mtu, err)
	}
	return nil
}

func (l *links) flags() (uint16, error) {
	var r ifreq
	if err := l.ioctl(unix.SIOCGIFFLAGS, &r); err != nil {
		return 0, fmt.Errorf("read the flags of %s: %w", l.name, err)
	}
	return *(*uint16)(unsafe.Pointer(&r.data)), nil
}

func (l *links) setNoARP() error {
	flags, err := l.flags()
	if err != nil {
		return err
	}
	var r ifreq
	*(*uint16)(unsafe.Pointer(&r.data)) = flags | unix.IFF_NOARP
	if err := l.ioctl(unix.SIOCSIFFLAGS, &r); err != nil {
		return fmt.Errorf("switch ARP of %s off: %w", l.name, err)
	}
	return nil
}

func (l *links) mac() (m [6]byte, err error) {
	var r ifreq
	if err := l.ioctl(unix.SIOCGIFHWADDR, &r); err != nil {
		return m, fmt.Errorf("read the hardware address of %s: %w", l.name, err)
	}
	copy(m[:], r.data[2:])
	return m, nil
}

// follow keeps the hardware address that frames for the kernel bear: those of
// another are not the kernel's.
func (d *tap) follow() {
	buf := make([]byte, os.Getpagesize())
	for d.links.changed(buf) {
		if m, err := d.links.mac(); err == nil { // or it is gone
			d.write.setMAC(m)
		}
	}
}
