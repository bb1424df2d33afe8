package fabric

import (
	"encoding/binary"
	"net/netip"
	"slices"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"

	"github.com/redoubt-cluster/redoubt/mesh/netd/internal/kernel"
)

// tableName is the table that keeps the mesh closed.
const tableName = "redoubt_mesh"

// vxlanPort is where the kernel takes VXLAN from.
const vxlanPort = 4789

func meshTable() *nftables.Table {
	return &nftables.Table{Name: tableName, Family: nftables.TableFamilyINet}
}

// Sets of the table. All that varies stands in them, so the rules are always the
// same, and a restarted netd finds there what was in force.
const (
	setOwn      = "own"      // our mesh address
	setMesh     = "mesh"     // the mesh's prefix
	setControl  = "control"  // the port open to peers
	setAssigned = "assigned" // who may send what
)

var setNames = []string{setOwn, setMesh, setControl, setAssigned}

// Counters of what was dropped, by what it was.
const (
	droppedForged    = "vxlan_forged"     // VXLAN that did not come from the tunnel, or that its sender may not send
	droppedSpoofed   = "mesh_spoofed"     // from or to a mesh address, outside the tunnel
	droppedTunnel    = "tunnel_other"     // anything else out of the tunnel
	droppedForwarded = "tunnel_forwarded" // through this node, from the tunnel or to it
	droppedLeaving   = "leaving_clear"    // VXLAN or packets to the mesh about to leave outside the tunnel
	droppedSent      = "tunnel_sent"      // anything else into the tunnel
)

var droppedReasons = []string{droppedForged, droppedSpoofed, droppedTunnel, droppedForwarded, droppedLeaving, droppedSent}

// notUnderstood is beside them: what the kernel gave wireguard-go and did not
// describe as it is.
const notUnderstood = "tunnel_not_understood"

// An Admission lets one mesh node send frames of one network from one MAC.
type Admission struct {
	Node netip.Addr
	VNI  uint32
	MAC  [6]byte
}

// key is ip saddr . @th,96,24 . @th,176,48, each part in registers of its own.
func (a Admission) key() [16]byte {
	node := a.Node.As4()
	k := [16]byte{node[0], node[1], node[2], node[3], byte(a.VNI >> 16), byte(a.VNI >> 8), byte(a.VNI)}
	copy(k[8:], a.MAC[:])
	return k
}

// typeAssigned has an address' type for the VNI as well, which is shown as 0.16.0.0
// where it is 4096: of an integer without a length, which it is, nft ends with a
// failed assertion as soon as it is to list two.
var typeAssigned = nftables.MustConcatSetType(nftables.TypeIPAddr, nftables.TypeIPAddr, nftables.TypeEtherAddr)

// content is what varies of the table.
type content struct {
	own      netip.Addr   // invalid: none
	mesh     netip.Prefix // invalid: none
	control  uint16       // 0: none
	assigned map[[16]byte]bool
}

// elements are those of all sets but assigned.
func (c content) elements() map[string][]nftables.SetElement {
	e := map[string][]nftables.SetElement{}
	if c.own.IsValid() {
		e[setOwn] = []nftables.SetElement{{Key: c.own.AsSlice()}}
	}
	if c.mesh.IsValid() {
		start := c.mesh.Masked().Addr().As4()
		end := binary.BigEndian.Uint32(start[:]) + 1<<(32-c.mesh.Bits())
		e[setMesh] = []nftables.SetElement{{Key: start[:]}, {Key: binary.BigEndian.AppendUint32(nil, end), IntervalEnd: true}}
	}
	if c.control != 0 {
		e[setControl] = []nftables.SetElement{{Key: binary.BigEndian.AppendUint16(nil, c.control)}}
	}
	return e
}

// build queues the table. link is the WireGuard interface, which need not exist.
func (c content) build(batch *kernel.Batch, link string) error {
	conn := batch.Words()
	b := &builder{conn: conn, table: conn.AddTable(meshTable())}
	elements := c.elements()
	own := b.set(nftables.Set{Name: setOwn, KeyType: nftables.TypeIPAddr}, elements[setOwn])
	mesh := b.set(nftables.Set{Name: setMesh, KeyType: nftables.TypeIPAddr, Interval: true}, elements[setMesh])
	control := b.set(nftables.Set{Name: setControl, KeyType: nftables.TypeInetService}, elements[setControl])
	assigned := b.set(nftables.Set{Name: setAssigned, KeyType: typeAssigned, Concatenation: true}, nil)
	for _, name := range droppedReasons {
		conn.AddObj(&nftables.NamedObj{Table: b.table, Name: name, Type: nftables.ObjTypeCounter, Obj: &expr.Counter{}})
	}
	vxlan := match{meta(expr.MetaKeyL4PROTO), equals(unix.IPPROTO_UDP), transport(2, 2), equals(binary.BigEndian.AppendUint16(nil, vxlanPort)...)}
	tcp := func(offset uint32) match {
		return match{meta(expr.MetaKeyL4PROTO), equals(unix.IPPROTO_TCP), transport(offset, 2), in(control)}
	}
	ipv4 := match{meta(expr.MetaKeyNFPROTO), equals(unix.NFPROTO_IPV4)}
	from, to := match{network(12, 4)}, match{network(16, 4)}
	fromTunnel, notFromTunnel := match{meta(expr.MetaKeyIIFNAME), equals(ifname(link)...)}, match{meta(expr.MetaKeyIIFNAME), differs(ifname(link)...)}
	toTunnel, notToTunnel := match{meta(expr.MetaKeyOIFNAME), equals(ifname(link)...)}, match{meta(expr.MetaKeyOIFNAME), differs(ifname(link)...)}
	fromLocal, toLocal := match{meta(expr.MetaKeyIIFNAME), equals(ifname("lo")...)}, match{meta(expr.MetaKeyOIFNAME), equals(ifname("lo")...)}

	// Tunnels hold many flows on many ports, and the node's table of
	// connections is not there for them.
	arrive := b.base("arrive", nftables.ChainHookPrerouting, *nftables.ChainPriorityRaw)
	b.rule(arrive, fromTunnel, vxlan, match{&expr.Notrack{}}, accept)
	b.rule(arrive, fromTunnel, accept)
	b.rule(arrive, fromLocal, accept)
	b.rule(arrive, ipv4, from, match{in(mesh)}, drop(droppedSpoofed))
	b.rule(arrive, ipv4, to, match{in(mesh)}, drop(droppedSpoofed))
	begin := b.base("begin", nftables.ChainHookOutput, *nftables.ChainPriorityRaw)
	b.rule(begin, toTunnel, vxlan, match{&expr.Notrack{}}, accept)

	// Packets are whole here, fragments put together.
	input := b.base("input", nftables.ChainHookInput, *nftables.ChainPriorityFilter-10)
	b.rule(input, fromTunnel, vxlan, ipv4, to, match{in(own), network(12, 4), transportTo(keyReg+1, 12, 3), transportTo(keyReg+2, 22, 6), in(assigned)}, judged, accept)
	b.rule(input, vxlan, drop(droppedForged))
	b.rule(input, notFromTunnel, accept)
	b.rule(input, ipv4, to, match{in(own)}, tcp(2), judged, accept)
	b.rule(input, ipv4, to, match{in(own)}, tcp(0), established, judged, accept)
	b.rule(input, drop(droppedTunnel))

	forward := b.base("forward", nftables.ChainHookForward, *nftables.ChainPriorityFilter-10)
	b.rule(forward, fromTunnel, drop(droppedForwarded))
	b.rule(forward, toTunnel, drop(droppedForwarded))

	// After whatever may send a packet elsewhere.
	leave := b.base("leave", nftables.ChainHookPostrouting, *nftables.ChainPriorityNATSource+200)
	b.rule(leave, notToTunnel, vxlan, drop(droppedLeaving))
	b.rule(leave, toLocal, accept)
	b.rule(leave, notToTunnel, ipv4, to, match{in(mesh)}, drop(droppedLeaving))
	b.rule(leave, notToTunnel, accept)
	// The kernel's VXLAN has no socket of this namespace behind its packets. What
	// has one was made by a process, which is no endpoint of any network.
	b.rule(leave, ofProcess, vxlan, drop(droppedSent))
	b.rule(leave, ipv4, from, match{in(own)}, vxlan, accept)
	b.rule(leave, ipv4, from, match{in(own)}, tcp(2), accept)
	b.rule(leave, ipv4, from, match{in(own)}, tcp(0), established, accept)
	b.rule(leave, drop(droppedSent))
	b.keep(batch.Add(assigned, missing(c.assigned, nil)))
	return b.err
}

// Small words. Register 1 holds what is compared; keys of several parts fill the
// 32-bit registers that begin there.

type match []expr.Any

const keyReg = unix.NFT_REG32_00 // = the first quarter of register 1

func ifname(name string) []byte {
	return append([]byte(name), make([]byte, unix.IFNAMSIZ-len(name))...)
}
func meta(key expr.MetaKey) expr.Any { return &expr.Meta{Key: key, Register: 1} }
func equals(data ...byte) expr.Any   { return &expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: data} }
func differs(data ...byte) expr.Any  { return &expr.Cmp{Op: expr.CmpOpNeq, Register: 1, Data: data} }
func in(s *nftables.Set) expr.Any {
	return &expr.Lookup{SourceRegister: keyReg, SetName: s.Name, SetID: s.ID}
}

func network(offset, n uint32) expr.Any {
	return &expr.Payload{Base: expr.PayloadBaseNetworkHeader, Offset: offset, Len: n, DestRegister: keyReg}
}

func transport(offset, n uint32) expr.Any { return transportTo(keyReg, offset, n) }
func transportTo(reg, offset, n uint32) expr.Any {
	return &expr.Payload{Base: expr.PayloadBaseTransportHeader, Offset: offset, Len: n, DestRegister: reg}
}

var (
	accept = match{&expr.Verdict{Kind: expr.VerdictAccept}}
	// judged: without it nothing arrives (unjudged.go).
	judged = match(kernel.Judged(kernel.JudgedByMesh))
	// ofProcess: there is a socket, whosesoever; -1 is nobody's number.
	ofProcess   = match{meta(expr.MetaKeySKUID), differs(255, 255, 255, 255)}
	established = match{&expr.Ct{Register: 1, Key: expr.CtKeySTATE},
		&expr.Bitwise{SourceRegister: 1, DestRegister: 1, Len: 4, Mask: binary.NativeEndian.AppendUint32(nil, 1<<1), Xor: make([]byte, 4)},
		differs(0, 0, 0, 0)}
)

func drop(counter string) match {
	return match{&expr.Objref{Type: int(nftables.ObjTypeCounter), Name: counter}, &expr.Verdict{Kind: expr.VerdictDrop}}
}

// builder queues one batch. Errors of the library are kept for the end.
type builder struct {
	conn  *nftables.Conn
	table *nftables.Table
	setID uint32
	err   error
}

func (b *builder) base(name string, hook *nftables.ChainHook, priority nftables.ChainPriority) *nftables.Chain {
	policy := nftables.ChainPolicyAccept
	return b.conn.AddChain(&nftables.Chain{Table: b.table, Name: name, Type: nftables.ChainTypeFilter, Hooknum: hook, Priority: &priority, Policy: &policy})
}

func (b *builder) rule(c *nftables.Chain, ms ...match) {
	b.conn.AddRule(&nftables.Rule{Table: b.table, Chain: c, Exprs: slices.Concat(ms...)})
}

func (b *builder) set(s nftables.Set, elements []nftables.SetElement) *nftables.Set {
	b.setID++ // own numbers: the library's counter is shared and unguarded
	s.Table, s.ID = b.table, b.setID
	b.keep(b.conn.AddSet(&s, elements))
	return &s
}

func (b *builder) keep(err error) {
	if b.err == nil {
		b.err = err
	}
}
