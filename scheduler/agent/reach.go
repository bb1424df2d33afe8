package agent

import (
	"fmt"
	"maps"
	"net/netip"
	"slices"

	"github.com/redoubt-cluster/redoubt/internal/portname"
	"github.com/redoubt-cluster/redoubt/mesh"
	"github.com/redoubt-cluster/redoubt/scheduler/schedulerpb"
)

// reachOf is what containers reach of nodes after m; old is not changed.
func reachOf(old mesh.Reach, m *schedulerpb.NetworkSet) (r mesh.Reach, err error) {
	r.Nodes, err = changed(old.Nodes, m.Nodes, m.RemoveNodes, maxAddresses, netip.Addr.Compare, func(s string) (netip.Addr, error) {
		a, err := netip.ParseAddr(s)
		if err != nil || a.String() != s || a.Zone() != "" || a.Is4In6() || !a.IsGlobalUnicast() {
			return a, fmt.Errorf("%.60q is no address of a node", s)
		}
		return a, nil
	})
	if err != nil {
		return old, err
	}
	r.Published, err = changed(old.Published, m.Published, m.RemovePublished, portname.Max, portname.Port.Compare, portname.Parse)
	return r, err
}

// changed is an ordered list of at most so many without what is removed and with
// what is added; old is not changed.
func changed[T comparable](old []T, add, remove []string, most int, compare func(a, b T) int, parse func(string) (T, error)) ([]T, error) {
	if len(add)+len(remove) == 0 {
		return old, nil
	}
	all := make(map[T]bool, len(old)+len(add))
	for _, x := range old {
		all[x] = true
	}
	for _, s := range remove {
		x, err := parse(s)
		if err != nil {
			return nil, err
		}
		if !all[x] {
			return nil, fmt.Errorf("%.60q is taken back and was never given", s)
		}
		delete(all, x)
	}
	for _, s := range add {
		x, err := parse(s)
		if err != nil {
			return nil, err
		}
		all[x] = true
	}
	if len(all) > most {
		return nil, fmt.Errorf("%d addresses of nodes or published ports: at most %d are possible", len(all), most)
	}
	return slices.SortedFunc(maps.Keys(all), compare), nil
}
