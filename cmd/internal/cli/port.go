package cli

import (
	"fmt"
	"net"
	"net/netip"
	"strconv"
	"strings"

	"github.com/redoubt-cluster/redoubt/scheduler/taskpb"
)

// parsePort reads --publish in Docker's two forms: published=8080,target=80,
// protocol=tcp,mode=ingress, or [ip:][8080:]80[/tcp]. Without a mode every entry
// node answers, and without a published port the cluster chooses one.
func parsePort(s string) (*taskpb.Port, error) {
	if !strings.Contains(s, "=") {
		return parseShortPort(s)
	}
	p := &taskpb.Port{Mode: taskpb.Port_MODE_INGRESS, Protocol: taskpb.Port_PROTOCOL_TCP}
	seen := map[string]bool{}
	for field := range strings.SplitSeq(s, ",") {
		k, v, ok := strings.Cut(field, "=")
		k = strings.ToLower(strings.TrimSpace(k))
		if !ok {
			v, ok = bareKeys[k]
		}
		if !ok || seen[k] {
			return nil, fmt.Errorf("%q: write key=value pairs, each key once", s)
		}
		seen[k] = true
		if err := setPort(p, k, v); err != nil {
			return nil, err
		}
	}
	host := p.Mode == taskpb.Port_MODE_HOST
	switch {
	case p.Target == 0:
		return nil, fmt.Errorf("%q: target=PORT is missing", s)
	case p.Published == 0 && host:
		return nil, fmt.Errorf("%q: published=PORT is missing: a port is not chosen for you in host mode", s)
	case host && (p.PreferLocal || p.ProxyProtocol):
		return nil, fmt.Errorf("%q: prefer-local and proxy-protocol are for mode=ingress", s)
	case p.ProxyProtocol && p.Protocol != taskpb.Port_PROTOCOL_TCP:
		return nil, fmt.Errorf("%q: proxy-protocol is for protocol=tcp", s)
	}
	return p, nil
}

// bareKeys may stand without a value, and then have this one.
var bareKeys = map[string]string{"prefer-local": "true", "proxy-protocol": "v2"}

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
			err = fmt.Errorf("mode %q: use ingress or host", v)
		}
	case "host_ip", "ip":
		p.HostIp, err = hostIP(v)
	case "prefer-local":
		p.PreferLocal, err = yesOrNo(k, v)
	case "proxy-protocol":
		if p.ProxyProtocol = strings.ToLower(v) == "v2"; !p.ProxyProtocol {
			err = fmt.Errorf("proxy-protocol %q: use v2, or leave it out", v)
		}
	default:
		err = fmt.Errorf("unknown key %q: use published, target, protocol, mode, host_ip, prefer-local or proxy-protocol", k)
	}
	return err
}

func yesOrNo(k, v string) (bool, error) {
	yes, err := strconv.ParseBool(v)
	if err != nil {
		return false, fmt.Errorf("%s %q: use true or false", k, v)
	}
	return yes, nil
}

func hostIP(s string) (string, error) {
	a, err := netip.ParseAddr(s)
	if err != nil {
		return "", fmt.Errorf("host_ip %q is no address", s)
	}
	return a.String(), nil
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

// parseShortPort reads [ip:][published:]target[/protocol]. An IPv6 address is in
// brackets.
func parseShortPort(s string) (*taskpb.Port, error) {
	p := &taskpb.Port{Mode: taskpb.Port_MODE_INGRESS}
	rest, proto, _ := strings.Cut(s, "/")
	var err error
	if p.Protocol, err = protocol(proto); err != nil {
		return nil, err
	}
	rest, target, two := cutLast(rest, ":")
	if !two {
		target, rest = rest, ""
	}
	if p.Target, err = portNumber(target); err != nil {
		return nil, err
	}
	if !two {
		return p, nil
	}
	ip, published, three := cutLast(rest, ":")
	if !three {
		published = rest
	}
	if p.Published, err = portNumber(published); err != nil {
		return nil, err
	}
	if three {
		p.HostIp, err = hostIP(strings.TrimSuffix(strings.TrimPrefix(ip, "["), "]"))
	}
	return p, err
}

// cutLast cuts at the last separator.
func cutLast(s, sep string) (before, after string, found bool) {
	i := strings.LastIndex(s, sep)
	if i < 0 {
		return s, "", false
	}
	return s[:i], s[i+len(sep):], true
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
	return fmt.Sprintf("%s->%d/%s", net.JoinHostPort(ip, strconv.Itoa(int(p.Published))), p.Target, proto)
}

// portDetail says more of how a port is published.
func portDetail(p *taskpb.Port) string {
	s := portString(p)
	if p.Mode == taskpb.Port_MODE_HOST {
		return s + " (host)"
	}
	if p.PreferLocal {
		s += " (prefer-local)"
	}
	if p.ProxyProtocol {
		s += " (proxy-protocol=v2)"
	}
	return s
}
