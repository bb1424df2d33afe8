// Package mesh is the node's side of container networking: it decides which
// address and hardware address each task of this node has, and tells netd, the
// only process that touches the kernel's network, what the node's network
// should look like.
//
// Local is the node bridge: a private subnet of one node. It
//
//   - reserves an address and a locally administered MAC for a task, the same
//     one each time it is asked;
//   - adopts the addresses that containers already have when redoubtd starts
//     beside running ones, so that they keep them;
//   - turns the whole set of attached tasks into one numbered declaration and
//     hands it to netd. netd computes the difference. A declaration may be
//     repeated at any time, which is how a restarted netd is healed.
//
// It keeps nothing on disk: what must survive is recorded by rund with the
// container. It never starts or stops anything, never opens a network
// namespace, and refuses what it cannot do right (a subnet without room, an
// address that is taken) instead of finding something close to it.
//
//	local, err := mesh.NewLocal(mesh.LocalConfig{Netd: wire.NewClient(path), Subnet: subnet})
//	endpoint, err := local.Reserve(task)        // before its container is created
//	failed, err := local.Sync(ctx, attachments) // once its namespace exists
//	local.Release(task)                         // once netd let go of it
package mesh

import (
	"context"
	"net"
	"net/netip"

	"google.golang.org/protobuf/proto"

	"github.com/redoubt-cluster/redoubt/mesh/netd/netdpb"
)

// Endpoint is a task's place on the node bridge.
type Endpoint struct {
	MAC net.HardwareAddr
	// Address has the bridge's prefix length.
	Address netip.Prefix
	Gateway netip.Addr
	DNS     []netip.Addr
}

// Port is published on the node itself.
type Port struct {
	Published, Target uint16
	UDP               bool
	// HostIP is the zero Addr for every address of the node.
	HostIP netip.Addr
}

// Attachment asks for a reserved task to be connected.
type Attachment struct {
	TaskID string
	// Netns is the file below <run-dir>/netns.
	Netns string
	Ports []Port
}

// RulesFeature is the Feature that tells of rules which somebody changed.
const RulesFeature = netdpb.FeatureRules

// Feature is a capability of kernel or network that netd looked for.
type Feature struct {
	Name              string
	Present, Required bool
	Detail            string
}

// Caller is one exchange with netd; a *wire.Client.
type Caller interface {
	Call(ctx context.Context, req, resp proto.Message) error
}
