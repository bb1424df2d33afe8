package e2e

import (
	"bufio"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"net"
	"net/netip"
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// onWire gives a machine an IPv6 address.
func onWire(t *testing.T, ns string, a netip.Addr) {
	t.Helper()
	within(t, ns, func() error {
		l, err := netlink.LinkByName("eth0")
		if err != nil {
			return err
		}
		return netlink.AddrAdd(l, &netlink.Addr{IPNet: &net.IPNet{IP: a.AsSlice(), Mask: net.CIDRMask(64, 128)}, Flags: unix.IFA_F_NODAD})
	})
}

// A knocked is a port at an address.
type knocked struct {
	proto string
	to    netip.AddrPort
}

// knock tries ports at addresses at once, and says which answer; who does not at
// once has a second.
func knock(t *testing.T, from string, addrs []netip.Addr, ports map[string]bool) map[knocked]bool {
	t.Helper()
	var names []knocked
	var open []unix.PollFd
	within(t, from, func() error {
		for _, a := range addrs {
			for p := range ports {
				proto, number, _ := strings.Cut(p, " ")
				port, err := strconv.Atoi(number)
				if err != nil {
					return err
				}
				fd, err := connectTo(proto, a, port)
				if err != nil || a.IsLoopback() { // no way there at all, or its own
					unix.Close(fd)
					continue
				}
				events := map[string]int16{"tcp": unix.POLLOUT, "udp": unix.POLLIN}[proto]
				names, open = append(names, knocked{proto, netip.AddrPortFrom(a, uint16(port))}), append(open, unix.PollFd{Fd: int32(fd), Events: events})
			}
		}
		return nil
	})
	waiting := slices.Clone(open)
	for end := time.Now().Add(time.Second); time.Now().Before(end); {
		if _, err := unix.Poll(waiting, int(time.Until(end).Milliseconds())+1); err != nil && err != unix.EINTR {
			t.Fatal(err)
		}
		for i := range waiting {
			if waiting[i].Revents != 0 {
				waiting[i].Fd = -1 // judged below
			}
		}
	}
	answer := map[knocked]bool{}
	for i, x := range open {
		e, err := unix.GetsockoptInt(int(x.Fd), unix.SOL_SOCKET, unix.SO_ERROR)
		_, peer := unix.Getpeername(int(x.Fd))
		answer[names[i]] = err == nil && e == 0 && peer == nil && waiting[i].Fd < 0
		unix.Close(int(x.Fd))
	}
	return answer
}

// connectTo begins a connection, or sends a datagram.
func connectTo(proto string, to netip.Addr, port int) (fd int, err error) {
	kind, family := unix.SOCK_STREAM, unix.AF_INET
	var at unix.Sockaddr = &unix.SockaddrInet6{Port: port, Addr: to.As16()}
	if family = unix.AF_INET6; to.Is4() {
		family, at = unix.AF_INET, &unix.SockaddrInet4{Port: port, Addr: to.As4()}
	}
	if proto == "udp" {
		kind = unix.SOCK_DGRAM
	}
	if fd, err = unix.Socket(family, kind|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0); err != nil {
		return -1, err
	}
	if err = unix.Connect(fd, at); err == unix.EINPROGRESS {
		err = nil
	}
	if err == nil && proto == "udp" {
		_, err = unix.Write(fd, []byte("anybody?"))
	}
	if err != nil {
		unix.Close(fd)
	}
	return fd, err
}

// sockets are the ports at which something waits in a namespace.
func sockets(t *testing.T, ns string) map[string]bool {
	t.Helper()
	out := map[string]bool{}
	within(t, ns, func() error {
		for _, table := range []string{"tcp", "tcp6", "udp", "udp6"} {
			f, err := os.Open("/proc/thread-self/net/" + table)
			if err != nil {
				return err
			}
			defer f.Close()
			for lines := bufio.NewScanner(f); lines.Scan(); {
				w := strings.Fields(lines.Text())
				state := map[string]string{"tcp": "0A", "udp": "07"}[table[:3]]
				if len(w) < 4 || w[3] != state {
					continue
				}
				port, err := hex.DecodeString(w[1][strings.IndexByte(w[1], ':')+1:])
				if err != nil {
					return err
				}
				out[fmt.Sprintf("%s %d", table[:3], binary.BigEndian.Uint16(port))] = true
			}
		}
		return nil
	})
	return out
}
