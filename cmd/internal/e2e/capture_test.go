package e2e

import (
	"bytes"
	"encoding/binary"
	"errors"
	"net/netip"
	"sync"
	"testing"

	"golang.org/x/sys/unix"
)

// captured counts what passes between the hosts of a lab.
type captured struct {
	fd   int
	done sync.WaitGroup

	hosts  map[netip.Addr]bool
	canary []byte

	mu                   sync.Mutex // guards the following
	clear, vxlan, tunnel int
	known                int // packets with control
}

// control is sent between hosts in clear, on purpose: what would be seen is.
const control = "control-in-clear-51b7"

// capture reads what passes the machine's interfaces, which the hosts' wires are
// among, until check.
func capture(t *testing.T, hosts []host, canary string) *captured {
	t.Helper()
	const all = unix.ETH_P_ALL<<8&0xff00 | unix.ETH_P_ALL>>8
	fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, all)
	if err != nil {
		t.Fatal(err)
	}
	c := &captured{fd: fd, hosts: map[netip.Addr]bool{}, canary: []byte(canary)}
	for _, h := range hosts {
		c.hosts[netip.MustParseAddr(h.Address)] = true
	}
	unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, 64<<20)
	if err := unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &unix.Timeval{Usec: 200_000}); err != nil {
		t.Fatal(err)
	}
	stop := make(chan struct{})
	c.done.Go(func() { c.read(stop) })
	t.Cleanup(func() {
		close(stop)
		c.done.Wait()
		unix.Close(fd)
	})
	return c
}

func (c *captured) read(stop chan struct{}) {
	buf := make([]byte, 1<<16)
	for {
		select {
		case <-stop:
			return
		default:
		}
		n, _, err := unix.Recvfrom(c.fd, buf, 0)
		if errors.Is(err, unix.EAGAIN) || errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil {
			return
		}
		c.take(buf[:n])
	}
}

// take looks at an Ethernet frame with IPv4 of one host to another.
func (c *captured) take(frame []byte) {
	const eth, ip = 14, 20
	if len(frame) < eth+ip || binary.BigEndian.Uint16(frame[12:]) != unix.ETH_P_IP {
		return
	}
	packet := frame[eth:]
	if !c.hosts[netip.AddrFrom4([4]byte(packet[12:16]))] || !c.hosts[netip.AddrFrom4([4]byte(packet[16:20]))] {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if bytes.Contains(packet, c.canary) {
		c.clear++
	}
	if bytes.Contains(packet, []byte(control)) {
		c.known++
	}
	head := int(packet[0]&15) * 4
	if packet[9] != unix.IPPROTO_UDP || len(packet) < head+12 {
		return
	}
	switch payload := packet[head+8:]; {
	case binary.BigEndian.Uint16(packet[head+2:]) == 4789:
		c.vxlan++
	case payload[0] >= 1 && payload[0] <= 4 && payload[1]|payload[2]|payload[3] == 0:
		c.tunnel++
	}
}

// check fails the test where anything was readable.
func (c *captured) check(t *testing.T) {
	t.Helper()
	c.mu.Lock()
	defer c.mu.Unlock()
	lost := 0
	if st, err := unix.GetsockoptTpacketStats(c.fd, unix.SOL_PACKET, unix.PACKET_STATISTICS); err == nil {
		lost = int(st.Drops)
	}
	t.Logf("between the hosts: %d packets of tunnels, %d on this machine not looked at", c.tunnel, lost)
	if c.known == 0 {
		t.Error("what was sent in clear on purpose was not seen: the capture is blind")
	}
	if c.clear > 0 || c.vxlan > 0 || c.tunnel == 0 {
		t.Errorf("between the hosts: %d packets with the canary in clear, %d of VXLAN in clear, %d of tunnels", c.clear, c.vxlan, c.tunnel)
	}
}
