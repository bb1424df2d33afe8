package rules

import (
	"net/netip"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"

	"github.com/redoubt-cluster/redoubt/mesh/netd/internal/kernel"
)

// The sets and maps of the table. All that varies between changes stands in them
// and in chains that they lead to.
const (
	setPins4     = iota // port or uplink . MAC . address
	setPins6            //
	setIDs4             // address of an endpoint → its service
	setIDs6             //
	setVIPs4            // virtual address with backends → chain that chooses one
	setVIPs6            //
	setBackends4        // virtual address . number → backend
	setBackends6        //
	setHairpin4         // local endpoint twice → gateway
	setHairpin6         //
	setGateways4        //
	setGateways6        //
	setVirtual4         // every virtual address
	setVirtual6         //
	setPairs            // service . service → chain of what they may
	setCount
)

var sets = [setCount]nftables.Set{
	setPins4:     keyed("pins4", nftables.TypeIFName, nftables.TypeEtherAddr, nftables.TypeIPAddr),
	setPins6:     keyed("pins6", nftables.TypeIFName, nftables.TypeEtherAddr, nftables.TypeIP6Addr),
	setIDs4:      mapped("services4", nftables.TypeMark, nftables.TypeIPAddr),
	setIDs6:      mapped("services6", nftables.TypeMark, nftables.TypeIP6Addr),
	setVIPs4:     mapped("balanced4", nftables.TypeVerdict, nftables.TypeIPAddr),
	setVIPs6:     mapped("balanced6", nftables.TypeVerdict, nftables.TypeIP6Addr),
	setBackends4: mapped("backends4", nftables.TypeIPAddr, nftables.TypeIPAddr, nftables.TypeMark),
	setBackends6: mapped("backends6", nftables.TypeIP6Addr, nftables.TypeIP6Addr, nftables.TypeMark),
	setHairpin4:  mapped("hairpin4", nftables.TypeIPAddr, nftables.TypeIPAddr, nftables.TypeIPAddr),
	setHairpin6:  mapped("hairpin6", nftables.TypeIP6Addr, nftables.TypeIP6Addr, nftables.TypeIP6Addr),
	setGateways4: keyed("gateways4", nftables.TypeIPAddr),
	setGateways6: keyed("gateways6", nftables.TypeIP6Addr),
	setVirtual4:  keyed("virtual4", nftables.TypeIPAddr),
	setVirtual6:  keyed("virtual6", nftables.TypeIP6Addr),
	setPairs:     mapped("policy", nftables.TypeVerdict, nftables.TypeMark, nftables.TypeMark),
}

func keyed(name string, key ...nftables.SetDatatype) nftables.Set {
	if len(key) == 1 {
		return nftables.Set{Name: name, KeyType: key[0]}
	}
	return nftables.Set{Name: name, KeyType: nftables.MustConcatSetType(key...), Concatenation: true}
}

func mapped(name string, data nftables.SetDatatype, key ...nftables.SetDatatype) nftables.Set {
	s := keyed(name, key...)
	s.IsMap, s.DataType = true, data
	return s
}

func isVerdict(set int) bool { return sets[set].DataType.Name == nftables.TypeVerdict.Name }

// set is one of the table t. Its number is its place: the library's counter is
// shared and unguarded.
func set(t *nftables.Table, i int) *nftables.Set {
	s := sets[i]
	s.Table, s.ID = t, uint32(i+1)
	return &s
}

func in(i int) expr.Any {
	return &expr.Lookup{SourceRegister: keyReg, SetName: sets[i].Name, SetID: uint32(i + 1)}
}

// lookup puts what the map says of the key at src into dst; a packet whose key is
// not there does not match.
// What nft cannot list must not be here: a key made of what maps say is none.
func lookup(i int, src, dst uint32) expr.Any {
	return &expr.Lookup{SourceRegister: src, DestRegister: dst, IsDestRegSet: true, SetName: sets[i].Name, SetID: uint32(i + 1)}
}

// verdict goes where the map leads.
func verdict(i int, src uint32) expr.Any { return lookup(i, src, unix.NFT_REG_VERDICT) }

// elements are keys of each set and what they lead to: bytes, or a chain's name.
type elements [setCount]map[string]string

func (e *elements) put(set int, key, val string) {
	if e[set] == nil {
		e[set] = make(map[string]string)
	}
	e[set][key] = val
}

func (e *elements) empty() bool {
	for _, m := range e {
		if len(m) > 0 {
			return false
		}
	}
	return true
}

// queue hands elements to op.
func (e *elements) queue(t *nftables.Table, op func(*nftables.Set, []kernel.Element) error) error {
	for i, m := range e {
		if len(m) == 0 {
			continue
		}
		list := make([]kernel.Element, 0, len(m))
		for k, v := range m {
			if isVerdict(i) {
				list = append(list, kernel.Element{Key: k, Chain: v})
			} else {
				list = append(list, kernel.Element{Key: k, Val: v})
			}
		}
		if err := op(set(t, i), list); err != nil {
			return err
		}
	}
	return nil
}

func key(a netip.Addr) string { return string(a.AsSlice()) }

func familyOf(a netip.Addr) *ipFamily {
	if a.Is4() {
		return &ipv4
	}
	return &ipv6
}
