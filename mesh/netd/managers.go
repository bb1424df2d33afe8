package netd

import (
	"encoding/binary"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strconv"

	"github.com/google/nftables"
)

// managers are the ports that no container opens a connection to. Both lists
// are sorted and without duplicates.
type managers struct {
	everywhere []uint16
	at         []netip.AddrPort
}

// wellKnown ports are those below: containers need them at other addresses.
const wellKnown = 1024

// parseManagers checks host:port of each manager. A host that is a name is not
// looked up: its port is shut at every address, whichever it is.
func parseManagers(addrs []string) (m managers, err error) {
	if n := len(addrs); n > maxManagers {
		return m, fmt.Errorf("%d addresses of managers exceed the limit of %d", n, maxManagers)
	}
	m.everywhere = []uint16{managementPort, peerPort}
	for _, s := range addrs {
		host, p, err := net.SplitHostPort(s)
		if err != nil || host == "" {
			return m, fmt.Errorf("manager %.60q is not host:port", s)
		}
		n, err := strconv.ParseUint(p, 10, 16)
		if err != nil || n == 0 {
			return m, fmt.Errorf("manager %.60q: the port must be a number from 1 to 65535", s)
		}
		ip, err := netip.ParseAddr(host)
		ip = ip.Unmap()
		switch {
		case err != nil || n >= wellKnown:
			m.everywhere = append(m.everywhere, uint16(n))
		case ip.Is4():
			m.at = append(m.at, netip.AddrPortFrom(ip, uint16(n)))
		default: // containers have no IPv6
		}
	}
	slices.Sort(m.everywhere)
	m.everywhere = slices.Compact(m.everywhere)
	slices.SortFunc(m.at, netip.AddrPort.Compare)
	m.at = slices.Compact(m.at)
	return m, nil
}

func (m managers) same(o managers) bool {
	return slices.Equal(m.everywhere, o.everywhere) && slices.Equal(m.at, o.at)
}

func (m managers) everywhereKeys() (out []nftables.SetElement) {
	for _, p := range m.everywhere {
		out = append(out, nftables.SetElement{Key: binary.BigEndian.AppendUint16(nil, p)})
	}
	return out
}

func (m managers) atKeys() (out []nftables.SetElement) {
	for _, a := range m.at {
		out = append(out, nftables.SetElement{Key: append(addrKey(a.Addr()), portKeyBytes(a.Port())...)})
	}
	return out
}
