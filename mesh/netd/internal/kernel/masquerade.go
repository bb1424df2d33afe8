package kernel

import (
	"encoding/binary"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"
)

// MasqueradeTo queues a rule that gives what matches the node's address and a port
// from first to last. The library has no words for it: the kernel looks at ports only
// with a flag that the library leaves out where there are any.
func (b *Batch) MasqueradeTo(c *nftables.Chain, first, last uint16, matches ...expr.Any) error {
	if _, err := b.take(); err != nil { // what was queued before comes before
		return err
	}
	port := func(register uint32, p uint16) expr.Any {
		return &expr.Immediate{Register: register, Data: binary.BigEndian.AppendUint16(nil, p)}
	}
	family := byte(c.Table.Family)
	body := []byte{family, unix.NFNETLINK_V0, 0, 0}
	body = appendText(body, unix.NFTA_RULE_TABLE, c.Table.Name, "\x00")
	body = appendText(body, unix.NFTA_RULE_CHAIN, c.Name, "\x00")
	words := len(body)
	body = openNest(body, unix.NFTA_RULE_EXPRESSIONS)
	for _, e := range append(matches, port(unix.NFT_REG_1, first), port(unix.NFT_REG_2, last)) {
		word, err := expr.Marshal(family, e)
		if err != nil {
			return err
		}
		body = AppendAttribute(body, unix.NFTA_LIST_ELEM|unix.NLA_F_NESTED, word)
	}
	masquerade := len(body)
	body = appendText(openNest(body, unix.NFTA_LIST_ELEM), unix.NFTA_EXPR_NAME, "masq", "\x00")
	data := len(body)
	body = openNest(body, unix.NFTA_EXPR_DATA)
	for _, a := range []struct {
		kind  uint16
		value uint32
	}{{unix.NFTA_MASQ_FLAGS, unix.NF_NAT_RANGE_PROTO_SPECIFIED}, {unix.NFTA_MASQ_REG_PROTO_MIN, unix.NFT_REG_1}, {unix.NFTA_MASQ_REG_PROTO_MAX, unix.NFT_REG_2}} {
		body = AppendAttribute(body, a.kind, binary.BigEndian.AppendUint32(nil, a.value))
	}
	closeNest(body, data)
	closeNest(body, masquerade)
	closeNest(body, words)
	b.out = append(b.out, Message{Type: unix.NFNL_SUBSYS_NFTABLES<<8 | unix.NFT_MSG_NEWRULE, Flags: unix.NLM_F_CREATE | unix.NLM_F_APPEND, Body: body})
	return nil
}
