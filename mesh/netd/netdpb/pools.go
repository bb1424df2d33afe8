package netdpb

import "net/netip"

// PoolsOf is nil for none: managers of an older version say nothing of them, and
// netd keeps what it was told before.
func PoolsOf(prefixes []netip.Prefix) *Pools {
	if len(prefixes) == 0 {
		return nil
	}
	m := &Pools{}
	for _, p := range prefixes {
		m.Prefixes = append(m.Prefixes, p.String())
	}
	return m
}
