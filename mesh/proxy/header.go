package proxy

import (
	"encoding/binary"
	"fmt"
	"net/netip"
)

// signature begins each header. No other protocol's first bytes are these.
const signature = "\r\n\r\n\x00\r\nQUIT\n"

const (
	versionProxy = 0x21 // version 2, a connection of somebody else
	overTCP4     = 0x11
	overTCP6     = 0x21
)

// Header is version 2 of the PROXY protocol's, of TCP, without extensions: who
// asks, and whom. Both addresses are of one family.
func Header(from, to netip.AddrPort) ([]byte, error) {
	a, b := from.Addr(), to.Addr()
	if !a.IsValid() || !b.IsValid() || a.Is4() != b.Is4() || a.Is4In6() || b.Is4In6() {
		return nil, fmt.Errorf("%s and %s are not of one family", from, to)
	}
	family := byte(overTCP4)
	if a.Is6() {
		family = overTCP6
	}
	h := append([]byte(signature), versionProxy, family)
	h = binary.BigEndian.AppendUint16(h, uint16(2*len(a.AsSlice())+4))
	h = append(append(h, a.AsSlice()...), b.AsSlice()...)
	h = binary.BigEndian.AppendUint16(h, from.Port())
	return binary.BigEndian.AppendUint16(h, to.Port()), nil
}
