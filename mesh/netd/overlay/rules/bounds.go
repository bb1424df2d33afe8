package rules

import (
	"time"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"
)

// bounds are how many connections one sender may have open in the network, and
// may begin in a second: the kernel's table of the namespace would be full else,
// and nobody on the network of this node could begin one. Senders are told apart
// by their MAC, which the pins have checked: that of an endpoint of this node, or
// of the node that all of its endpoints' packets come from.
//
// The first packet of a connection alone is counted, after what refuses it for
// other reasons: its entry is not in the kernel's table yet, and what is dropped
// never comes there. Both bounds are needed. The kernel does not count a connection
// of TCP that was closed, though it keeps it for two minutes.
type bounds struct {
	endpoint, node bound
}

type bound struct {
	open  uint32 // at one time
	rate  uint64 // new ones in a second
	burst uint32 // above the rate
}

var usualBounds = bounds{endpoint: bound{maxFlows, maxFlowRate, maxFlows}, node: bound{maxNodeFlows, maxNodeFlowRate, maxNodeFlows}}

// Sets that packets fill; they are no part of what is compared with the kernel.
const firstCounting = setCount + 16

func (p *plan) bound(b *builder, most bounds) {
	c := b.chain("bound")
	next := uint32(firstCounting)
	counting := func(name string, size uint32, memory time.Duration) *nftables.Set {
		s := &nftables.Set{Table: b.table, Name: name, ID: next, KeyType: nftables.TypeEtherAddr, Dynamic: true, Size: size, HasTimeout: memory > 0, Timeout: memory}
		next++
		b.keep(b.conn.AddSet(s, nil))
		return s
	}
	each := func(s *nftables.Set, operation uint32, over expr.Any) match {
		return match{payload(expr.PayloadBaseLLHeader, 6, 6, keyReg),
			&expr.Dynset{SrcRegKey: keyReg, SetName: s.Name, SetID: s.ID, Operation: operation, Timeout: s.Timeout, Exprs: []expr.Any{over}}}
	}
	for _, x := range []struct {
		what  string
		of    match
		most  bound
		sizes uint32
	}{{"endpoints", p.notFromUplink(), most.endpoint, maxCountedEndpoints}, {"nodes", p.fromUplink(), most.node, maxCountedNodes}} {
		rates := counting("rate_of_"+x.what, x.sizes, rateMemory)
		open := counting("open_of_"+x.what, x.sizes, 0)
		b.rule(c, x.of, each(rates, unix.NFT_DYNSET_OP_UPDATE,
			&expr.Limit{Type: expr.LimitTypePkts, Rate: x.most.rate, Unit: expr.LimitTimeSecond, Burst: x.most.burst, Over: true}), drop(droppedBound))
		b.rule(c, x.of, each(open, unix.NFT_DYNSET_OP_ADD, &expr.Connlimit{Count: x.most.open, Flags: expr.NFT_CONNLIMIT_F_INV}), drop(droppedBound))
	}
	for name, hook := range map[string]*nftables.ChainHook{"bound_forward": nftables.ChainHookForward, "bound_input": nftables.ChainHookInput} {
		base := b.base(name, nftables.ChainTypeFilter, hook, *nftables.ChainPriorityFilter+100, nftables.ChainPolicyAccept)
		b.rule(base, begins(), goTo("bound"))
	}
}
