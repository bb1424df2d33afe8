package spec

import (
	"fmt"
	"strings"

	"github.com/redoubt-cluster/redoubt/internal/ident"
	"github.com/redoubt-cluster/redoubt/mesh/meshpb"
)

// Extent is how much of what was asked a rule allows.
type Extent uint8

// None of it, a part of it, all of it.
const (
	None Extent = iota
	Part
	All
)

// Covers compares a rule with a flow, which is written as a rule too: between
// two services, of a protocol or any, to a port or every.
func Covers(rule, flow *meshpb.PolicyRule) Extent {
	const unset = meshpb.Protocol_PROTOCOL_UNSPECIFIED
	switch {
	case rule.GetFromService() != flow.GetFromService() || rule.GetToService() != flow.GetToService():
		return None
	case rule.GetProtocol() == unset:
		return All
	case flow.GetProtocol() == unset:
		return Part
	case rule.GetProtocol() != flow.GetProtocol():
		return None
	case rule.GetFirstPort() == 0:
		return All
	case flow.GetFirstPort() == 0:
		return Part
	case flow.GetLastPort() < rule.GetFirstPort() || flow.GetFirstPort() > rule.GetLastPort():
		return None
	case flow.GetFirstPort() >= rule.GetFirstPort() && flow.GetLastPort() <= rule.GetLastPort():
		return All
	}
	return Part
}

// Flow checks protocol and ports of a question.
func Flow(r *meshpb.PolicyRule) error { return traffic(r) }

// ParseTraffic reads what a flow carries: tcp/5432, 5432 (which is tcp), udp/53,
// icmp, or nothing, which is any.
func ParseTraffic(text string) (p meshpb.Protocol, port uint32, err error) {
	name, number, hasPort := strings.Cut(text, "/")
	if !hasPort && text != "" && strings.Trim(text, "0123456789") == "" {
		name, number, hasPort = "tcp", text, true
	}
	if text == "" {
		name = "any"
	}
	p, ok := protocols[name]
	if !ok {
		return p, 0, fmt.Errorf("protocol %q is unknown: write tcp/5432, udp/53, icmp or any", ident.Clip(name))
	}
	r := &meshpb.PolicyRule{Protocol: p}
	if hasPort {
		if r.FirstPort, r.LastPort, err = parsePorts(number); err != nil {
			return p, 0, err
		}
		if r.FirstPort != r.LastPort {
			return p, 0, fmt.Errorf("%q: ask about one port at a time", ident.Clip(text))
		}
	}
	return p, r.FirstPort, traffic(r)
}
