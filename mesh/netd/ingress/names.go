package ingress

import (
	"crypto/sha256"
	"encoding/base32"
	"encoding/binary"
	"net"
	"net/netip"
	"strconv"
	"strings"
)

// Everything of ours in the kernel is found by these names.
const (
	// Netns is the name, below <run-dir>/netns, of the namespace that all ingress
	// networks of a node share.
	Netns = "net-ingress"
	// tableName is that of the tables in the node's namespace, in that of the
	// ingress networks, and in sandboxes.
	tableName = "redoubt_ingress"
	// NodeLink is the node's end of the way into the namespace, insideLink the
	// other.
	NodeLink   = "rdti0"
	insideLink = "node0"
	// sandboxLink is a task's interface.
	sandboxLink  = "ing0"
	uplinkPrefix = "vx"
	portPrefix   = "rdti"

	routeProtocol = 'R'
	// firstTable is the routing table of mark 1; sandboxTable is of sandboxes.
	firstTable, sandboxTable = 1000, 200
	// Priorities of rules: what bears no mark is not compared with all of them.
	unmarkedRule, markedRule = 100, 200
	// sandboxMark is on answers to datagrams, inside a sandbox.
	sandboxMark = 0x52445449

	vxlanPort = 4789
)

// Owns reports whether an interface of the node's namespace is ours.
func Owns(link string) bool { return link == NodeLink }

var (
	// gatewayMAC is that of every end that is not a task's.
	gatewayMAC = net.HardwareAddr{0x02, 0x52, 0, 0, 0, 1}
	// entranceMAC is that of the namespace's end of the way in.
	entranceMAC = net.HardwareAddr{0x02, 0x52, 0, 0, 0, 3}
	// nobodyMAC stands for the entry node until the packet's mark says which.
	nobodyMAC = net.HardwareAddr{0x02, 0x52, 0, 0, 0, 2}
)

// routerMAC is the node's MAC in every network of the mesh.
func routerMAC(mesh netip.Addr) [6]byte {
	b := mesh.As4()
	return [6]byte{0x02, 0x52, b[0], b[1], b[2], b[3]}
}

// mac of the task's interface is the same for the same address.
func (e endpoint) mac() [6]byte {
	b := e.addrs[0].As4()
	return [6]byte{0x06, 0x52, b[0], b[1], b[2], b[3]}
}

// portName is the namespace's end of the task's veth pair: 50 bits of a hash, as
// an interface's name holds 15 characters and an id is 26.
func portName(task string) string {
	sum := sha256.Sum256([]byte(task))
	return portPrefix + strings.ToLower(base32.StdEncoding.EncodeToString(sum[:]))[:10]
}

func uplinkName(vni uint32) string { return uplinkPrefix + strconv.FormatUint(uint64(vni), 10) }

// Addresses of the subnet that are no task's are in its upper quarter; of IPv6, in
// its last 2^33.

// place is the n-th address from the end; 0 is broadcast.
func place(subnet netip.Prefix, n uint32) netip.Addr {
	if subnet.Addr().Is6() {
		b := subnet.Masked().Addr().As16()
		binary.BigEndian.PutUint64(b[8:], ^uint64(n))
		return netip.AddrFrom16(b)
	}
	b := subnet.Masked().Addr().As4()
	last := binary.BigEndian.Uint32(b[:]) | ^uint32(0)>>subnet.Bits()
	binary.BigEndian.PutUint32(b[:], last-n)
	return netip.AddrFrom4(b)
}

// gateway is what tasks, and the node, send to; hop is what answers go to on the
// way to any entry node.
func gateway(subnet netip.Prefix) netip.Addr { return place(subnet, 1) }
func hop(subnet netip.Prefix) netip.Addr     { return place(subnet, 2) }

// nodeEnd is the node's own address on the way in: what its processes, and its
// containers by the bridge, seem to come from. It is another one on each node as
// mesh addresses are given out from the first on.
func nodeEnd(subnet netip.Prefix, mesh netip.Addr) netip.Addr {
	if subnet.Addr().Is6() {
		b := place(subnet, 0).As16()
		b[11] = 0xfe
		clear(b[12:])
		if mesh.IsValid() {
			copy(b[12:], mesh.AsSlice())
		}
		return netip.AddrFrom16(b)
	}
	quarter := uint32(1) << (30 - subnet.Bits())
	n := uint32(0)
	if mesh.IsValid() {
		b := mesh.As4()
		n = binary.BigEndian.Uint32(b[:]) % (quarter - sharedAddrs)
	}
	return place(subnet, sharedAddrs+n)
}

// upper is the quarter that holds all of these.
func upper(subnet netip.Prefix) netip.Prefix {
	if subnet.Addr().Is6() {
		return netip.PrefixFrom(place(subnet, 0), 95).Masked()
	}
	return netip.PrefixFrom(place(subnet, 0), subnet.Bits()+2).Masked()
}
