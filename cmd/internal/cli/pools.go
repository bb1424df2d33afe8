package cli

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"net/netip"
	"os"
	"slices"
	"strconv"
	"strings"

	"github.com/redoubt-cluster/redoubt/mesh/meshpb"
)

// route is a destination that this machine reaches, and by which interface.
type route struct {
	to  netip.Prefix
	dev string
}

// poolWarnings says which pools have addresses that mean something here already.
// Tasks on networks could not reach those, and from IPv6's default pool nobody
// else has any.
func poolWarnings(p *meshpb.Pools, routes []route) (out []string) {
	for _, one := range []struct{ flag, text string }{
		{"--network-pool", p.GetNetworks()}, {"--network-pool6", p.GetNetworks6()}, {"--node-pool", p.GetNodes()}, {"--ingress-pool", p.GetIngress()}, {"--ingress-pool6", p.GetIngress6()},
	} {
		pool, err := netip.ParsePrefix(one.text)
		if err != nil {
			continue // refused already
		}
		i := slices.IndexFunc(routes, func(r route) bool { return r.to.Bits() > 0 && r.to.Overlaps(pool) })
		if i >= 0 {
			out = append(out, fmt.Sprintf("%s %s overlaps %s, which this machine reaches by %s: choose another if any machine of the cluster needs that",
				one.flag, pool, routes[i].to, routes[i].dev))
		}
	}
	return out
}

// maxRoutes bounds the routes that are looked at: a machine with all of the
// internet's has other warnings to heed.
const maxRoutes = 10000

// hostRoutes are this machine's routes but the default ones, as far as they can be
// read: it is for a warning.
func hostRoutes() []route {
	four, _ := os.ReadFile("/proc/net/route")
	six, _ := os.ReadFile("/proc/net/ipv6_route")
	return append(routes4(four), routes6(six)...)
}

// routes4 reads the kernel's table: interface, destination, …, mask, each number
// as the memory has it.
func routes4(table []byte) (out []route) {
	for s := bufio.NewScanner(bytes.NewReader(table)); s.Scan() && len(out) < maxRoutes; {
		f := strings.Fields(s.Text())
		if len(f) < 8 {
			continue
		}
		dst, err1 := strconv.ParseUint(f[1], 16, 32)
		mask, err2 := strconv.ParseUint(f[7], 16, 32)
		if err1 != nil || err2 != nil { // the heading
			continue
		}
		var a, m [4]byte
		binary.NativeEndian.PutUint32(a[:], uint32(dst))
		binary.NativeEndian.PutUint32(m[:], uint32(mask))
		bits := 0
		for _, b := range m {
			for ; b&0x80 != 0; b <<= 1 {
				bits++
			}
		}
		if p, err := netip.AddrFrom4(a).Prefix(bits); err == nil {
			out = append(out, route{p, f[0]})
		}
	}
	return out
}

// routes6 reads destination, its length, …, interface.
func routes6(table []byte) (out []route) {
	for s := bufio.NewScanner(bytes.NewReader(table)); s.Scan() && len(out) < maxRoutes; {
		f := strings.Fields(s.Text())
		if len(f) < 10 {
			continue
		}
		raw, err1 := hex.DecodeString(f[0])
		bits, err2 := strconv.ParseUint(f[1], 16, 8)
		if err1 != nil || err2 != nil || len(raw) != 16 {
			continue
		}
		p, err := netip.AddrFrom16([16]byte(raw)).Prefix(int(bits))
		if err == nil && !p.Addr().IsMulticast() && !p.Addr().IsLinkLocalUnicast() && !p.Addr().IsLoopback() {
			out = append(out, route{p, f[9]})
		}
	}
	return out
}
