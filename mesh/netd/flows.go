package netd

import (
	"time"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"

	"github.com/redoubt-cluster/redoubt/mesh/netd/internal/kernel"
)

// flowBounds says how many connections one container may have.
type flowBounds struct {
	open  uint32 // at one time
	rate  uint64 // new ones in a second
	burst uint32 // above the rate
}

// build queues the table that counts the connections which containers open, by
// their address. It says nothing of single containers and is a table of its
// own, because replacing it forgets what was counted.
//
// The first packet of a connection alone is counted: its entry is not in the
// kernel's table yet, and what is dropped here never comes there. State new
// would not do, as it lasts for all of a UDP flow that nobody answers. The
// rules come after the filter, for what that lets pass.
//
// Two bounds are needed. The kernel does not count a TCP connection that was
// closed, though it keeps it for two minutes; the rate bounds those.
func (f flowBounds) build(batch *kernel.Batch) error {
	b := newBuilder(batch, flows())
	f.rules(b)
	return b.err
}

func (f flowBounds) rules(b *builder) {
	opened := b.set(nftables.Set{Name: "open", KeyType: typeAddr, Dynamic: true, Size: maxCounted}, nil)
	rates := b.set(nftables.Set{Name: "rates", KeyType: typeAddr, Dynamic: true, Size: maxCounted,
		HasTimeout: true, Timeout: rateMemory}, nil)
	each := func(s *nftables.Set, op uint32, memory time.Duration, over expr.Any) match {
		return match{loadPayload(expr.PayloadBaseNetworkHeader, 12, 4, keyReg),
			&expr.Dynset{SrcRegKey: keyReg, SetName: s.Name, SetID: s.ID, Operation: op, Timeout: memory, Exprs: []expr.Any{over}}}
	}
	// After others' filters too: what they drop is not counted.
	c := b.base("forward", nftables.ChainTypeFilter, nftables.ChainHookForward, *nftables.ChainPriorityFilter+100)
	first := append(append(iif(bridgeName), ipv4()...), ctNot(expr.CtKeySTATUS, ctConfirmed)...)
	b.rule(c, first, each(rates, unix.NFT_DYNSET_OP_UPDATE, rateMemory,
		&expr.Limit{Type: expr.LimitTypePkts, Rate: f.rate, Unit: expr.LimitTimeSecond, Burst: f.burst, Over: true}), drop())
	b.rule(c, first, each(opened, unix.NFT_DYNSET_OP_ADD, 0,
		&expr.Connlimit{Count: f.open, Flags: expr.NFT_CONNLIMIT_F_INV}), drop())
}
