package ingress

import (
	"errors"
	"fmt"
	"os"
	"sync"
	"time"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"

	"github.com/redoubt-cluster/redoubt/mesh/netd/internal/kernel"
)

// Every connection to a published port has an entry in the kernel's table on the
// entry node, in the node's namespace, and in those of the ingress networks on both
// nodes. Whoever fills one of them shuts published ports, and in the node's own
// namespace the node. Three things are done about it.
//
// Senders are bounded in what they have open and what they begin in a second: on
// the entry node each client, by its address or the /64 that one has of IPv6; on
// the node of the task each entry node, by its MAC, which the pins have checked.
// As in overlay networks (mesh/netd/overlay/rules) the first packet of a connection
// alone is counted, after all that refuses it for other reasons, and what is
// dropped never comes into a table.
//
// Nobody can be bounded who is another one with each packet. What is only begun is
// forgotten within seconds, therefore (shortenTimes, ownTimes), and where a table is
// full all the same, the kernel gives the place of a connection that was never
// answered to the next one. Those that were answered stand.
type bounds struct{ client, entry bound }

type bound struct {
	open  uint32 // at one time
	rate  uint64 // new ones in a second
	burst uint32 // above the rate
}

var usualBounds = bounds{client: bound{maxClientFlows, maxClientRate, maxClientFlows}, entry: bound{maxEntryFlows, maxEntryRate, maxEntryFlows}}

const droppedBound = "too_many_flows" // more than their sender may have

// begins: the kernel has no entry of it yet.
var begins = match{&expr.Ct{Key: expr.CtKeySTATUS, Register: 1},
	&expr.Bitwise{SourceRegister: 1, DestRegister: 1, Len: 4, Mask: native32(ctConfirmed), Xor: make([]byte, 4)}, equals(0, 0, 0, 0)}

// site is what a sender has of the source address to itself.
func (f *family) site() match {
	if f == four {
		return match{f.address(f.saddr, keyReg)}
	}
	return match{load(expr.PayloadBaseNetworkHeader, f.saddr, 8, keyReg), &expr.Immediate{Register: keyReg + 2, Data: make([]byte, 8)}}
}

func (f *family) addressType() nftables.SetDatatype {
	if f == four {
		return nftables.TypeIPAddr
	}
	return nftables.TypeIP6Addr
}

// bound drops what of a sender is more than it may have. suffix is of the sets'
// names; key fills registers with who sends.
func (b *builder) bound(c *nftables.Chain, suffix string, key nftables.SetDatatype, size uint32, most bound, which ...match) {
	counting := func(name string, memory time.Duration) *nftables.Set {
		s := b.number(&nftables.Set{Table: b.table, Name: name + suffix, KeyType: key, Dynamic: true, Size: size, HasTimeout: memory > 0, Timeout: memory})
		b.keep(b.conn.AddSet(s, nil))
		return s
	}
	each := func(s *nftables.Set, operation uint32, over expr.Any) match {
		return match{&expr.Dynset{SrcRegKey: keyReg, SetName: s.Name, SetID: s.ID, Operation: operation, Timeout: s.Timeout, Exprs: []expr.Any{over}}}
	}
	rates, open := counting("rate_of_", rateMemory), counting("open_of_", 0)
	b.rule(c, append(which[:len(which):len(which)], each(rates, unix.NFT_DYNSET_OP_UPDATE,
		&expr.Limit{Type: expr.LimitTypePkts, Rate: most.rate, Unit: expr.LimitTimeSecond, Burst: most.burst, Over: true}), drop(droppedBound))...)
	b.rule(c, append(which[:len(which):len(which)], each(open, unix.NFT_DYNSET_OP_ADD,
		&expr.Connlimit{Count: most.open, Flags: expr.NFT_CONNLIMIT_F_INV}), drop(droppedBound))...)
}

const lateFilter = 100 // after what refuses for other reasons

// boundClients is of the entry node.
func (p *plan) boundClients(b *builder) {
	b.counter(droppedBound)
	c := b.base("bound_clients", nftables.ChainTypeFilter, nftables.ChainHookForward, *nftables.ChainPriorityFilter+lateFilter)
	for _, f := range p.families() {
		b.bound(c, "clients"+f.suffix, f.addressType(), maxCountedClients, p.most().client, oif(NodeLink), f.is(), begins, f.site())
	}
	if !p.kernel.shortens {
		return
	}
	for _, proto := range []byte{unix.IPPROTO_TCP, unix.IPPROTO_UDP} {
		addTimes(b.conn, b.table, proto)
		b.rule(c, oif(NodeLink), begins, match{meta(expr.MetaKeyL4PROTO, 1), equals(proto), &expr.Objref{Type: int(nftables.ObjTypeCtTimeout), Name: ownTimes[proto]}})
	}
}

// ownTimes are the objects that give connections times of their own, in a namespace
// that has others too.
var ownTimes = map[byte]string{unix.IPPROTO_TCP: "half_open", unix.IPPROTO_UDP: "unanswered"}

// The kernel's own where we want no other (linux/net/netfilter/nf_conntrack_proto_tcp.c).
const answeredTCP, answeredUDP = 5 * 24 * time.Hour, 2 * time.Minute

var timesTurn sync.Mutex // the library writes what it is given into a map that all have in common

func addTimes(c *nftables.Conn, t *nftables.Table, proto byte) {
	policy := expr.CtStatePolicyTimeout{expr.CtStateUDPUNREPLIED: seconds(unansweredFor), expr.CtStateUDPREPLIED: seconds(answeredUDP)}
	if proto == unix.IPPROTO_TCP {
		policy = expr.CtStatePolicyTimeout{expr.CtStateTCPSYNSENT: seconds(halfOpenFor), expr.CtStateTCPSYNRECV: seconds(halfOpenFor), expr.CtStateTCPSYNSENT2: seconds(halfOpenFor),
			expr.CtStateTCPESTABLISHED: seconds(answeredTCP)}
	}
	timesTurn.Lock()
	defer timesTurn.Unlock()
	c.AddObj(&nftables.NamedObj{Table: t, Name: ownTimes[proto], Type: nftables.ObjTypeCtTimeout,
		Obj: &expr.CtTimeout{L3Proto: unix.NFPROTO_IPV4, L4Proto: proto, Policy: policy}})
}

// boundEntries is of the node of tasks.
func (p *plan) boundEntries(b *builder) {
	b.counter(droppedBound)
	c := b.base("bound_entries", nftables.ChainTypeFilter, nftables.ChainHookForward, *nftables.ChainPriorityFilter+lateFilter)
	b.bound(c, "entries", nftables.TypeEtherAddr, maxCountedEntries, p.most().entry, iifBegins(uplinkPrefix), begins,
		match{load(expr.PayloadBaseLLHeader, 6, 6, keyReg)})
}

// A kernelSide is what is no part of a declaration.
type kernelSide struct {
	bounds   bounds // without any: the usual ones
	shortens bool   // see shortens
}

func (p *plan) most() bounds {
	if p.kernel.bounds == (bounds{}) {
		return usualBounds
	}
	return p.kernel.bounds
}

func seconds(d time.Duration) uint32 { return uint32(d / time.Second) }

// shortenTimes has the calling thread's namespace, which is for ingress alone,
// forget soon what is only begun, and what ended: the bounds do not count a
// connection that was closed, which the kernel would keep for two minutes.
func shortenTimes() error {
	for name, d := range map[string]time.Duration{"tcp_timeout_syn_sent": halfOpenFor, "tcp_timeout_syn_recv": halfOpenFor, "tcp_timeout_time_wait": closedFor,
		"udp_timeout": unansweredFor} {
		_, err := kernel.SetSysctl(fmt.Sprint(seconds(d)), "netfilter/nf_conntrack_"+name)
		if err != nil && !errors.Is(err, os.ErrNotExist) {
			return fmt.Errorf("set nf_conntrack_%s: %w", name, err)
		}
	}
	return nil
}

// shortens reports whether this kernel gives single connections times of their own.
func shortens() bool {
	return kernel.WithNFT(func(c *nftables.Conn) error {
		t := c.AddTable(&nftables.Table{Name: tableName + "_probe", Family: nftables.TableFamilyINet})
		addTimes(c, t, unix.IPPROTO_TCP)
		c.DelTable(t)
		return c.Flush()
	}) == nil
}
