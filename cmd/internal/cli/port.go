package cli

import (
	"errors"
	"fmt"
	"net/netip"
	"strings"

	"github.com/redoubt-cluster/redoubt/scheduler/taskpb"
)

// errIngress is the answer to Docker's default publish mode.
var errIngress = errors.New("ingress publishing is not there yet: publish on the nodes that run the tasks, with mode=host, as in published=8080,target=80,mode=host")

// parsePort reads --publish in Docker's two forms: published=8080,target=80,
// protocol=tcp,mode=host, or [ip:]8080:80[/tcp]. The short form means ingress,
// as in Docker, and is refused with the form to use.
func parsePort(s string) (*taskpb.Port, error) {
	if !strings.Contains(s, "=") {
		return parseShortPort(s)
	}
	p := &taskpb.Port{Mode: taskpb.Port_MODE_INGRESS, Protocol: taskpb.Port_PROTOCOL_TCP}
	seen := map[string]bool{}
	for field := range strings.SplitSeq(s, ",") {
		k, v, ok := strings.Cut(field, "=")
		k = strings.ToLower(strings.TrimSpace(k))
		if !ok || seen[k] {
			return nil, fmt.Errorf("%q: write key=value pairs, each key once", s)
		}
		seen[k] = true
		if err := setPort(p, k, v); err != nil {
			return nil, err
		}
	}
	switch {
	case p.Target == 0:
		return nil, fmt.Errorf("%q: target=PORT is missing", s)
	case p.Mode == taskpb.Port_MODE_INGRESS:
		return nil, errIngress
	case p.Published == 0:
		return nil, fmt.Errorf("%q: published=PORT is missing: a port is not chosen for you in host mode", s)
	}
	return p, nil
}

func setPort(p *taskpb.Port, k, v string) (err error) {
	switch k {
	case "published", "src", "source":
		p.Published, err = portNumber(v)
	case "target", "dst", "destination":
		p.Target, err = portNumber(v)
	case "protocol":
		p.Protocol, err = protocol(v)
	case "mode":
		switch strings.ToLower(v) {
		case "host":
			p.Mode = taskpb.Port_MODE_HOST
		case "ingress":
			p.Mode = taskpb.Port_MODE_INGRESS
		default:
			err = fmt.Errorf("mode %q: use host", v)
		}
	case "host_ip", "ip":
		var a netip.Addr
		if a, err = netip.ParseAddr(v); err != nil {
			err = fmt.Errorf("host_ip %q is no address", v)
		}
		p.HostIp = a.String()
	default:
		err = fmt.Errorf("unknown key %q: use published, target, protocol, mode or host_ip", k)
	}
	return err
}

func protocol(s string) (taskpb.Port_Protocol, error) {
	switch strings.ToLower(s) {
	case "tcp", "":
		return taskpb.Port_PROTOCOL_TCP, nil
	case "udp":
		return taskpb.Port_PROTOCOL_UDP, nil
	}
	return 0, fmt.Errorf("protocol %q: use tcp or udp", s)
}

// parseShortPort checks the short form, so that a mistake in it is named, and
// then refuses it: it always means ingress.
func parseShortPort(s string) (*taskpb.Port, error) {
	ports, proto, _ := strings.Cut(s, "/")
	if _, err := protocol(proto); err != nil {
		return nil, err
	}
	parts := strings.Split(ports, ":")
	if len(parts) > 2 {
		parts = parts[len(parts)-2:]
	}
	for _, p := range parts {
		if _, err := portNumber(p); err != nil {
			return nil, err
		}
	}
	return nil, errIngress
}

func portString(p *taskpb.Port) string {
	proto := "tcp"
	if p.Protocol == taskpb.Port_PROTOCOL_UDP {
		proto = "udp"
	}
	ip := p.HostIp
	if ip == "" {
		ip = "*"
	}
	return fmt.Sprintf("%s:%d->%d/%s", ip, p.Published, p.Target, proto)
}
