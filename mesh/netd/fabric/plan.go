package fabric

import (
	"fmt"
	"net/netip"

	"golang.zx2c4.com/wireguard/wgctrl/wgtypes"
)

// A plan is what is declared: the sum of a whole declaration and the differences
// after it. Nobody shares an address or a key in it.
type plan struct {
	settings
	peers map[string]*peer // by node id; peers are not changed, only replaced
	addrs map[netip.Addr]string
	keys  map[wgtypes.Key]string // current and next ones
	// announced are the next keys.
	announced map[wgtypes.Key]bool
}

func emptyPlan() *plan {
	return &plan{peers: map[string]*peer{}, addrs: map[netip.Addr]string{}, keys: map[wgtypes.Key]string{}, announced: map[wgtypes.Key]bool{}}
}

// merge checks the declaration against the plan it is made to and puts it in
// force. It returns the WireGuard keys concerned; nil stands for all. On an
// error nothing has changed.
func (p *plan) merge(d declaration, own ...wgtypes.Key) (*plan, map[wgtypes.Key]bool, error) {
	to := p
	if d.base == 0 {
		to = emptyPlan()
	} else if d.address != p.address {
		return nil, nil, fmt.Errorf("address %s is another than %s, which is in force: declare the whole", d.address, p.address)
	}
	freed := make(map[string]bool, len(d.removed)+len(d.upsert))
	for _, id := range d.removed {
		if to.peers[id] == nil {
			return nil, nil, fmt.Errorf("node %s is to be removed and is no peer", id)
		}
		freed[id] = true
	}
	count := len(to.peers) - len(d.removed)
	for _, u := range d.upsert {
		freed[u.node] = true
		if to.peers[u.node] == nil {
			count++
		}
	}
	if count > maxPeers {
		return nil, nil, fmt.Errorf("%d peers exceed the limit of %d", count, maxPeers)
	}
	if err := to.conflicts(d.upsert, freed, own); err != nil {
		return nil, nil, err
	}

	var touched map[wgtypes.Key]bool
	if d.base != 0 {
		touched = make(map[wgtypes.Key]bool)
	}
	for id := range freed {
		if old := to.peers[id]; old != nil {
			to.drop(old, touched)
		}
	}
	for _, u := range d.upsert {
		to.peers[u.node], to.addrs[u.addr] = u, u.node
		for _, k := range u.allKeys() {
			to.keys[k] = u.node
			if touched != nil {
				touched[k] = true
			}
		}
		if u.next != nil {
			to.announced[u.next.key] = true
		}
	}
	to.settings = d.settings
	return to, touched, nil
}

func (p *plan) drop(old *peer, touched map[wgtypes.Key]bool) {
	delete(p.peers, old.node)
	delete(p.addrs, old.addr)
	for _, k := range old.allKeys() {
		delete(p.keys, k)
		delete(p.announced, k)
		if touched != nil {
			touched[k] = true
		}
	}
}

// conflicts looks for an address or key that two would have, among the new ones
// and those that stay.
func (p *plan) conflicts(upsert []*peer, freed map[string]bool, own []wgtypes.Key) error {
	addrs := make(map[netip.Addr]string, len(upsert))
	keys := make(map[wgtypes.Key]string, len(upsert)+len(own))
	for _, k := range own {
		keys[k] = "this node"
	}
	owner := func(id string) string {
		if freed[id] {
			return ""
		}
		return id
	}
	for _, u := range upsert {
		if by := first(addrs[u.addr], owner(p.addrs[u.addr])); by != "" {
			return fmt.Errorf("node %s: address %s belongs to %s", u.node, u.addr, by)
		}
		addrs[u.addr] = u.node
		for _, k := range u.allKeys() {
			if by := first(keys[k], owner(p.keys[k])); by != "" {
				return fmt.Errorf("node %s: public key %s belongs to %s", u.node, k, by)
			}
			keys[k] = u.node
		}
	}
	return nil
}

func first(a, b string) string {
	if a != "" {
		return a
	}
	return b
}

func (p *peer) allKeys() []wgtypes.Key {
	if p.next == nil {
		return []wgtypes.Key{p.key}
	}
	return []wgtypes.Key{p.key, p.next.key}
}
