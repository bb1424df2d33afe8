package rules

import (
	"encoding/binary"
	"net/netip"
	"slices"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"
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

// queue hands elements to op, in parts that fit a message.
func (e *elements) queue(t *nftables.Table, op func(*nftables.Set, []nftables.SetElement) error) error {
	for i, m := range e {
		if len(m) == 0 {
			continue
		}
		list := make([]nftables.SetElement, 0, len(m))
		for k, v := range m {
			x := nftables.SetElement{Key: []byte(k)}
			if isVerdict(i) {
				x.VerdictData = &expr.Verdict{Kind: expr.VerdictGoto, Chain: v}
			} else {
				x.Val = []byte(v)
			}
			list = append(list, x)
		}
		s := set(t, i)
		for part := range slices.Chunk(list, maxElementsPerMessage) {
			if err := op(s, part); err != nil {
				return err
			}
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

// verdictData is how the kernel tells of an element that leads to a chain:
// attributes with the verdict's code and the chain's name.
func verdictData(chain string) string {
	var attr []byte
	put := func(kind uint16, data []byte) {
		attr = binary.NativeEndian.AppendUint16(attr, uint16(4+len(data)))
		attr = binary.NativeEndian.AppendUint16(attr, kind)
		attr = append(attr, data...)
		attr = append(attr, make([]byte, -len(attr)&3)...)
	}
	goTo := expr.VerdictGoto
	put(unix.NFTA_VERDICT_CODE, binary.BigEndian.AppendUint32(nil, uint32(goTo)))
	put(unix.NFTA_VERDICT_CHAIN, append([]byte(chain), 0))
	return string(attr)
}
