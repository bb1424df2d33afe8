package mesh

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"net"
	"net/netip"
	"slices"
)

// pool hands out the addresses of one bridge. It is plain state: Local guards
// it.
type pool struct {
	subnet  netip.Prefix
	gateway netip.Addr
	tasks   map[string]reserved
	byAddr  map[netip.Addr]string
	byMAC   map[string]string // key: the six bytes
}

type reserved struct {
	mac  net.HardwareAddr
	addr netip.Addr
}

func newPool(subnet netip.Prefix) (*pool, error) {
	a := subnet.Addr()
	switch {
	case !subnet.IsValid():
		return nil, fmt.Errorf("bridge subnet is not set: give one such as 172.30.0.0/20")
	case !a.Is4():
		return nil, fmt.Errorf("bridge subnet %s: only IPv4 is supported", subnet)
	case subnet != subnet.Masked():
		return nil, fmt.Errorf("bridge subnet %s has host bits set: write %s", subnet, subnet.Masked())
	case subnet.Bits() > maxBits:
		return nil, fmt.Errorf("bridge subnet %s is too small for containers: use /%d or larger", subnet, maxBits)
	case subnet.Bits() < minBits:
		return nil, fmt.Errorf("bridge subnet %s is larger than one node can use: use /%d or smaller", subnet, minBits)
	case !a.IsGlobalUnicast() || a.As4()[0] == 0 || a.As4()[0] >= 240:
		return nil, fmt.Errorf("bridge subnet %s is not an ordinary unicast network: use a private one such as 172.30.0.0/20", subnet)
	}
	return &pool{
		subnet:  subnet,
		gateway: a.Next(),
		tasks:   map[string]reserved{},
		byAddr:  map[netip.Addr]string{},
		byMAC:   map[string]string{},
	}, nil
}

// capacity counts the addresses beside network, gateway and broadcast.
func (p *pool) capacity() uint32 { return 1<<(32-p.subnet.Bits()) - 3 }

// reserve gives the task the address it has, or a free one. The search starts
// at a place derived from the task, so that an address just given back is
// rarely given to the next one while others still remember its former owner.
func (p *pool) reserve(task string) (reserved, error) {
	if r, ok := p.tasks[task]; ok {
		return r, nil
	}
	size := p.capacity()
	if uint32(len(p.byAddr)) >= size {
		return reserved{}, fmt.Errorf("bridge subnet %s is full: all %d addresses are in use, configure a larger one", p.subnet, size)
	}
	if len(p.tasks) >= maxEndpoints {
		return reserved{}, fmt.Errorf("this node has %d tasks with an address already, the most it can have", maxEndpoints)
	}
	mac, err := p.freeMAC(task)
	if err != nil {
		return reserved{}, err
	}
	sum := sha256.Sum256([]byte("redoubt address v1\x00" + task))
	start := binary.BigEndian.Uint32(sum[:]) % size
	for i := range size {
		addr := p.nth((start + i) % size)
		if _, taken := p.byAddr[addr]; !taken {
			return p.take(task, reserved{mac, addr}), nil
		}
	}
	return reserved{}, fmt.Errorf("bridge subnet %s is full: configure a larger one", p.subnet)
}

// nth is the n-th address after the gateway.
func (p *pool) nth(n uint32) netip.Addr {
	b := p.subnet.Addr().As4()
	binary.BigEndian.PutUint32(b[:], binary.BigEndian.Uint32(b[:])+2+n)
	return netip.AddrFrom4(b)
}

func (p *pool) freeMAC(task string) (net.HardwareAddr, error) {
	for i := range maxMACTries {
		mac := taskMAC(task, i)
		if _, taken := p.byMAC[string(mac)]; !taken {
			return mac, nil
		}
	}
	return nil, fmt.Errorf("no free hardware address for task %s", task)
}

// taskMAC derives the n-th candidate: unicast, locally administered.
func taskMAC(task string, n int) net.HardwareAddr {
	sum := sha256.Sum256(fmt.Appendf(nil, "redoubt mac v1\x00%s\x00%d", task, n))
	mac := net.HardwareAddr(sum[:6:6])
	mac[0] = mac[0]&^0x01 | 0x02
	return mac
}

// adopt records what a container already has.
func (p *pool) adopt(task string, mac net.HardwareAddr, addr netip.Prefix) error {
	host := addr.Addr()
	size := p.capacity()
	switch {
	case addr.Masked() != p.subnet:
		return fmt.Errorf("address %s is not in the bridge subnet %s", addr, p.subnet)
	case host.Less(p.nth(0)) || p.nth(size-1).Less(host):
		return fmt.Errorf("address %s is not one of the bridge subnet's host addresses", addr)
	case len(mac) != 6 || mac[0]&0x03 != 0x02:
		return fmt.Errorf("hardware address %q is not a unicast, locally administered one", mac)
	}
	if r, ok := p.tasks[task]; ok {
		if r.addr == host && bytes.Equal(r.mac, mac) {
			return nil
		}
		return fmt.Errorf("address %s differs from the reserved %s", host, r.addr)
	}
	if other, taken := p.byAddr[host]; taken {
		return fmt.Errorf("address %s is in use by task %s", host, other)
	}
	if other, taken := p.byMAC[string(mac)]; taken {
		return fmt.Errorf("hardware address %s is in use by task %s", mac, other)
	}
	p.take(task, reserved{slices.Clone(mac), host})
	return nil
}

func (p *pool) take(task string, r reserved) reserved {
	p.tasks[task] = r
	p.byAddr[r.addr] = task
	p.byMAC[string(r.mac)] = task
	return r
}

func (p *pool) release(task string) {
	r, ok := p.tasks[task]
	if !ok {
		return
	}
	delete(p.tasks, task)
	delete(p.byAddr, r.addr)
	delete(p.byMAC, string(r.mac))
}
