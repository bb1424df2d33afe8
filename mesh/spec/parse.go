package spec

import (
	"errors"
	"fmt"
	"strconv"
	"strings"

	"github.com/redoubt-cluster/redoubt/internal/ident"
	"github.com/redoubt-cluster/redoubt/mesh/meshpb"
)

// protocols are how people write them.
var protocols = map[string]meshpb.Protocol{
	"any": meshpb.Protocol_PROTOCOL_UNSPECIFIED, "tcp": meshpb.Protocol_PROTOCOL_TCP,
	"udp": meshpb.Protocol_PROTOCOL_UDP, "icmp": meshpb.Protocol_PROTOCOL_ICMP,
}

// ParseRule reads service:a->service:b[:tcp[/5432[-5439]]].
func ParseRule(text string) (*meshpb.PolicyRule, error) {
	from, to, ok := strings.Cut(text, "->")
	from, a := strings.CutPrefix(from, "service:")
	to, b := strings.CutPrefix(to, "service:")
	if !ok || !a || !b {
		return nil, fmt.Errorf("rule %q: write it as service:web->service:db:tcp/5432", ident.Clip(text))
	}
	to, what, _ := strings.Cut(to, ":")
	r := &meshpb.PolicyRule{FromService: from, ToService: to}
	name, ports, hasPorts := strings.Cut(what, "/")
	if name == "" && !hasPorts && !strings.HasSuffix(text, ":") {
		name = "any"
	}
	if r.Protocol, ok = protocols[name]; !ok {
		return nil, fmt.Errorf("rule %q: protocol %q is unknown: use tcp, udp, icmp or any", ident.Clip(text), ident.Clip(name))
	}
	if hasPorts {
		var err error
		if r.FirstPort, r.LastPort, err = parsePorts(ports); err != nil {
			return nil, fmt.Errorf("rule %q: %w", ident.Clip(text), err)
		}
	}
	if err := rule(r); err != nil {
		return nil, fmt.Errorf("rule %q: %w", ident.Clip(text), err)
	}
	return r, nil
}

func parsePorts(text string) (first, last uint32, err error) {
	low, high, isRange := strings.Cut(text, "-")
	if !isRange {
		high = low
	}
	x, err1 := strconv.ParseUint(low, 10, 16)
	y, err2 := strconv.ParseUint(high, 10, 16)
	if errors.Join(err1, err2) != nil || x == 0 {
		return 0, 0, fmt.Errorf("ports %q: write a port of 1 to 65535, or two as 8000-8010", ident.Clip(text))
	}
	return uint32(x), uint32(y), nil
}

// FormatRule is the rule as ParseRule reads it.
func FormatRule(r *meshpb.PolicyRule) string {
	out := "service:" + r.GetFromService() + "->service:" + r.GetToService()
	for name, p := range protocols {
		if p == r.GetProtocol() && name != "any" {
			out += ":" + name
		}
	}
	switch {
	case r.GetFirstPort() == 0:
	case r.GetFirstPort() == r.GetLastPort():
		out += fmt.Sprintf("/%d", r.GetFirstPort())
	default:
		out += fmt.Sprintf("/%d-%d", r.GetFirstPort(), r.GetLastPort())
	}
	return out
}
