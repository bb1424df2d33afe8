package netd

import (
	"crypto/sha256"
	"encoding/base32"
	"net"
	"net/netip"
	"strings"

	"github.com/redoubt-cluster/redoubt/mesh/netd/internal/kernel"
)

// Everything netd owns in the kernel is found by these names.
const (
	bridgeName = "rdt0"
	portPrefix = "rdtv"
	tableName  = "redoubt"
	flowsName  = "redoubt_flows"
	// sandboxLink is the interface's name inside a sandbox.
	sandboxLink = "eth0"
)

// hairpinMark is on packets from one container to a published port of another,
// inside the node only. It has the bit of what the rules have judged.
const hairpinMark = 0x52445448 | kernel.JudgedByBridge

// probeMark is on no packet.
const probeMark = 0x08000000

// managementPort is redoubtd's unless it is configured otherwise. No container
// opens a connection to it, on this node or another, whatever managers are named.
const managementPort = 2377

// peerPort is where nodes answer each other (mesh/peer), and no container.
const peerPort = 7946

// portName is the host end of the task's veth pair: 50 bits of a hash, as an
// interface's name holds 15 characters and an id is 26.
func portName(task string) string {
	sum := sha256.Sum256([]byte(task))
	return portPrefix + strings.ToLower(base32.StdEncoding.EncodeToString(sum[:]))[:10]
}

func isPort(link string) bool { return strings.HasPrefix(link, portPrefix) }

// bridgeMAC is derived from the bridge's address: a bridge without a MAC of its
// own takes that of a port, and the gateway would change under the containers.
func bridgeMAC(a netip.Addr) net.HardwareAddr {
	b := a.As4()
	return net.HardwareAddr{0x02, 'R', b[0], b[1], b[2], b[3]}
}
