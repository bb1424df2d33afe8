package spec

import (
	"fmt"
	"net/netip"

	"github.com/redoubt-cluster/redoubt/scheduler/schedulerpb"
	"github.com/redoubt-cluster/redoubt/scheduler/taskpb"
)

// clusterPorts are those that the nodes themselves need: published, in either mode,
// they would lead the cluster's own connections to a container.
var clusterPorts = map[taskpb.Port_Protocol]map[uint32]string{
	taskpb.Port_PROTOCOL_TCP: {2377: "managers listen on", 7946: "nodes tell each other their keys on"},
	taskpb.Port_PROTOCOL_UDP: {4789: "networks are carried on", 7946: "the nodes' tunnels come in on"},
}

// normalizePort writes out the defaults of a port: tcp, on every entry node.
func normalizePort(p *taskpb.Port) {
	if p == nil {
		return
	}
	if p.Protocol == taskpb.Port_PROTOCOL_UNSPECIFIED {
		p.Protocol = taskpb.Port_PROTOCOL_TCP
	}
	if p.Mode == taskpb.Port_MODE_UNSPECIFIED {
		p.Mode = taskpb.Port_MODE_INGRESS
	}
}

func validatePorts(ports []*taskpb.Port) error {
	if len(ports) > MaxPorts {
		return fmt.Errorf("there are %d published ports: at most %d are allowed", len(ports), MaxPorts)
	}
	ingress, proxied := 0, 0
	for i, p := range ports {
		if err := validatePort(p); err != nil {
			return err
		}
		if Ingress(p) {
			ingress++
		}
		if p.GetProxyProtocol() {
			proxied++
		}
		for _, q := range ports[:i] {
			if p.GetPublished() != 0 && PortsCollide(p, q) {
				return fmt.Errorf("port %d/%s is published twice: keep one", p.GetPublished(), ProtocolName(p.GetProtocol()))
			}
		}
	}
	if ingress > MaxIngressPorts {
		return fmt.Errorf("there are %d ports of mode ingress: at most %d are allowed", ingress, MaxIngressPorts)
	}
	if proxied > MaxProxyPorts {
		return fmt.Errorf("there are %d ports with the PROXY protocol: at most %d are allowed, as each is a process of each task", proxied, MaxProxyPorts)
	}
	return nil
}

func validatePort(p *taskpb.Port) error {
	if p.GetPublished() > 65535 {
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
	if what := clusterPorts[p.GetProtocol()][p.GetPublished()]; what != "" {
		return fmt.Errorf("port %d/%s is what %s: publish another", p.GetPublished(), ProtocolName(p.GetProtocol()), what)
	}
	if err := validateMode(p); err != nil {
		return err
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

func validateMode(p *taskpb.Port) error {
	switch p.GetMode() {
	case taskpb.Port_MODE_HOST:
		switch {
		case p.GetPublished() == 0:
			return fmt.Errorf("target port %d: a port is not chosen for you in mode host: say which is to be published", p.GetTarget())
		case p.GetPreferLocal():
			return fmt.Errorf("port %d: mode host leads to the tasks of its node anyway: leave prefer-local out, or use mode=ingress", p.GetPublished())
		case p.GetProxyProtocol():
			return fmt.Errorf("port %d: mode host has no PROXY protocol: leave it out, or use mode=ingress", p.GetPublished())
		}
	case taskpb.Port_MODE_INGRESS:
		if p.GetProxyProtocol() && p.GetProtocol() != taskpb.Port_PROTOCOL_TCP {
			return fmt.Errorf("port %d: the PROXY protocol is for TCP: leave it out, tasks see the client's address without it", p.GetPublished())
		}
	default:
		return fmt.Errorf("port %d: the mode is unknown: use ingress or host", p.GetPublished())
	}
	return nil
}

// validateEntries checks what says which nodes answer.
func validateEntries(s *schedulerpb.ServiceSpec) error {
	published := HasIngress(s.GetTask())
	if published && s.GetEndpointMode() == schedulerpb.EndpointMode_ENDPOINT_MODE_DNSRR {
		return fmt.Errorf("endpoint mode dnsrr does not go with ports of mode ingress: use mode vip, or publish them with mode=host")
	}
	if r := s.GetReplicated().GetReplicas(); published && r > MaxIngressReplicas {
		return fmt.Errorf("replicas is %d: a service with ports of mode ingress has %d at most, make it several, or publish them with mode=host", r, MaxIngressReplicas)
	}
	n := len(s.GetIngressConstraints())
	if n > MaxConstraints {
		return fmt.Errorf("there are %d ingress constraints: at most %d are allowed", n, MaxConstraints)
	}
	if n > 0 && !published {
		return fmt.Errorf("ingress constraints are for services with ports of mode ingress: publish one, or leave them out")
	}
	for _, text := range s.GetIngressConstraints() {
		if _, err := ParseEntryConstraint(text); err != nil {
			return err
		}
	}
	return nil
}

// MayPublish reports whether a number is not one that the nodes themselves need.
func MayPublish(p *taskpb.Port) bool {
	return p.GetPublished() != 0 && clusterPorts[p.GetProtocol()][p.GetPublished()] == ""
}

// Ingress reports whether entry nodes answer on a port.
func Ingress(p *taskpb.Port) bool { return p.GetMode() == taskpb.Port_MODE_INGRESS }

// HasIngress reports whether tasks have a place on their service's ingress
// network.
func HasIngress(t *taskpb.TaskSpec) bool { return len(IngressPorts(t)) > 0 }

// IngressPorts are those that entry nodes answer on.
func IngressPorts(t *taskpb.TaskSpec) (out []*taskpb.Port) {
	for _, p := range t.GetPorts() {
		if Ingress(p) {
			out = append(out, p)
		}
	}
	return out
}

// HostPorts are those that the node of each task answers on.
func HostPorts(t *taskpb.TaskSpec) (out []*taskpb.Port) {
	for _, p := range t.GetPorts() {
		if !Ingress(p) {
			out = append(out, p)
		}
	}
	return out
}

// PortsCollide reports whether two ports cannot be published on one node.
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
