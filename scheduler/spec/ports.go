package spec

import (
	"fmt"
	"net/netip"

	"github.com/redoubt-cluster/redoubt/scheduler/taskpb"
)

func validatePorts(ports []*taskpb.Port) error {
	if len(ports) > MaxPorts {
		return fmt.Errorf("there are %d published ports: at most %d are allowed", len(ports), MaxPorts)
	}
	for i, p := range ports {
		if err := validatePort(p); err != nil {
			return err
		}
		for _, q := range ports[:i] {
			if PortsCollide(p, q) {
				return fmt.Errorf("port %d/%s is published twice: keep one", p.GetPublished(), ProtocolName(p.GetProtocol()))
			}
		}
	}
	return nil
}

func validatePort(p *taskpb.Port) error {
	if p.GetPublished() < 1 || p.GetPublished() > 65535 {
		return fmt.Errorf("published port %d: use 1 to 65535", p.GetPublished())
	}
	if p.GetTarget() < 1 || p.GetTarget() > 65535 {
		return fmt.Errorf("target port %d: use 1 to 65535", p.GetTarget())
	}
	switch p.GetProtocol() {
	case taskpb.Port_PROTOCOL_TCP, taskpb.Port_PROTOCOL_UDP:
	default:
		return fmt.Errorf("port %d: the protocol is unknown: use tcp or udp", p.GetPublished())
	}
	switch p.GetMode() {
	case taskpb.Port_MODE_HOST:
	case taskpb.Port_MODE_INGRESS, taskpb.Port_MODE_UNSPECIFIED:
		return fmt.Errorf("port %d: mode=ingress needs the routing mesh, which this version does not have: use mode=host", p.GetPublished())
	default:
		return fmt.Errorf("port %d: the mode is unknown: use mode=host", p.GetPublished())
	}
	if ip := p.GetHostIp(); ip != "" {
		a, err := netip.ParseAddr(ip)
		if err != nil || a.Zone() != "" || a.Is4In6() || a.String() != ip {
			return fmt.Errorf("port %d: host address %q is not an IP address in its usual form: correct it or leave it out", p.GetPublished(), clip(ip))
		}
		if a.IsMulticast() || a.IsUnspecified() {
			return fmt.Errorf("port %d: host address %s cannot be listened on: leave it out for every address", p.GetPublished(), ip)
		}
	}
	return nil
}

// PortsCollide reports whether two host ports cannot be published on one node.
func PortsCollide(a, b *taskpb.Port) bool {
	return a.GetPublished() == b.GetPublished() && a.GetProtocol() == b.GetProtocol() &&
		(a.GetHostIp() == "" || b.GetHostIp() == "" || a.GetHostIp() == b.GetHostIp())
}

// ProtocolName is the protocol as people write it.
func ProtocolName(p taskpb.Port_Protocol) string {
	if p == taskpb.Port_PROTOCOL_UDP {
		return "udp"
	}
	return "tcp"
}
