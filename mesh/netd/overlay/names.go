package overlay

import (
	"crypto/sha256"
	"encoding/base32"
	"fmt"
	"net"
	"net/netip"
	"strings"
)

// Everything of ours in a namespace is found by these names.
const (
	netnsPrefix = "net-"
	// uplinkName is the VXLAN device in the namespace of a network.
	uplinkName = "vx0"
	portPrefix = "rdtn"
	// routeProtocol marks the routes that are ours, for those who look.
	routeProtocol = 'R'

	vxlanPort = 4789

	protoTCP, protoUDP, protoSCTP = 6, 17, 132
)

// gatewayMAC is that of every port's end in the namespace of its network.
var gatewayMAC = net.HardwareAddr{0x02, 0x52, 0, 0, 0, 1}

// routerMAC is the node's MAC in every network of the mesh.
func routerMAC(mesh netip.Addr) [6]byte {
	b := mesh.As4()
	return [6]byte{0x02, 0x52, b[0], b[1], b[2], b[3]}
}

// sandboxMAC is the same for the same address, and begins otherwise than those
// above.
func sandboxMAC(network string, e *endpoint) net.HardwareAddr {
	sum := sha256.Sum256(fmt.Appendf(nil, "%s %s", network, e.addrs[0]))
	return append(net.HardwareAddr{0x06}, sum[:5]...)
}

// portName is the network's end of the task's veth pair: 50 bits of a hash, as an
// interface's name holds 15 characters and an id is 26.
func portName(task string) string {
	sum := sha256.Sum256([]byte(task))
	return portPrefix + strings.ToLower(base32.StdEncoding.EncodeToString(sum[:]))[:10]
}

// sandboxName is the task's end.
func sandboxName(e *endpoint) string { return fmt.Sprintf("ov%d", e.index) }

func isPort(link string) bool { return strings.HasPrefix(link, portPrefix) }
