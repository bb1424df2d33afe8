package agent

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"

	"github.com/redoubt-cluster/redoubt/internal/ident"
	"github.com/redoubt-cluster/redoubt/mesh/overlay"
	"github.com/redoubt-cluster/redoubt/scheduler/schedulerpb"
	"github.com/redoubt-cluster/redoubt/scheduler/taskpb"
)

// publishedOf takes what a view says of an ingress network: which ports it
// carries, and who answers on them.
func publishedOf(n *overlay.Network, u *schedulerpb.NetworkView) error {
	if n.VNI == 0 || len(n.Subnets) == 0 || !n.Subnets[0].Prefix.Addr().Is4() || !ident.Valid(n.ServiceID) {
		return fmt.Errorf("VNI %d, %d subnets and service %.60q do not make a network of published ports", n.VNI, len(n.Subnets), n.ServiceID)
	}
	if len(u.Ports) > maxPorts {
		return fmt.Errorf("%d published ports: at most %d are possible", len(u.Ports), maxPorts)
	}
	for _, p := range u.Ports {
		port, err := portOf(p)
		if err != nil {
			return err
		}
		n.Ports = append(n.Ports, port)
	}
	if n.Entries == nil {
		n.Entries = map[string]bool{}
	}
	for _, id := range u.RemoveEntries {
		delete(n.Entries, id)
	}
	for _, id := range u.Entries {
		if !ident.Valid(id) {
			return fmt.Errorf("%.60q is no id of a node", id)
		}
		n.Entries[id] = true
	}
	if len(n.Entries) > maxEntries {
		return fmt.Errorf("%d nodes answer: at most %d are possible", len(n.Entries), maxEntries)
	}
	return nil
}

func portOf(v *schedulerpb.IngressPortView) (p overlay.Port, err error) {
	if v.Published == 0 || v.Published > 65535 || v.Target == 0 || v.Target > 65535 {
		return p, fmt.Errorf("published port %d:%d is out of range", v.Published, v.Target)
	}
	p = overlay.Port{Published: uint16(v.Published), Target: uint16(v.Target), PreferLocal: v.PreferLocal, Proxy: v.ProxyProtocol}
	switch v.Protocol {
	case taskpb.Port_PROTOCOL_UNSPECIFIED, taskpb.Port_PROTOCOL_TCP:
	case taskpb.Port_PROTOCOL_UDP:
		p.UDP = true
	default:
		return p, fmt.Errorf("port %d is of a protocol that this node does not know", v.Published)
	}
	if v.HostIp != "" {
		if p.Host, err = netip.ParseAddr(v.HostIp); err != nil || p.Host.Zone() != "" || p.Host.Is4In6() {
			return p, fmt.Errorf("port %d: host address %.60q is no address", v.Published, v.HostIp)
		}
	}
	return p, nil
}

// publishes reports whether entry nodes lead to the task.
func publishes(spec *taskpb.TaskSpec) bool {
	return slices.ContainsFunc(spec.GetPorts(), func(p *taskpb.Port) bool { return p.Mode == taskpb.Port_MODE_INGRESS })
}

// places counts the attachments that a task must have.
func places(spec *taskpb.TaskSpec) int {
	n := len(spec.GetNetworks())
	if publishes(spec) {
		n++
	}
	return n
}

// onOverlays are the attachments to networks that the task itself was put on: all
// but the one by which its published ports are reached.
func onOverlays(a *schedulerpb.Assignment) []*taskpb.Attachment {
	var out []*taskpb.Attachment
	for _, at := range a.GetAttachments() {
		if slices.ContainsFunc(a.GetSpec().GetNetworks(), func(u *taskpb.NetworkUse) bool { return u.Network == at.NetworkId }) {
			out = append(out, at)
		}
	}
	return out
}

var errPlaces = errors.New("the managers did not give it a place on each of its networks, or for its published ports")
