package kernel

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"slices"

	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// A Connection is one that the kernel tracks: who began it, whom he called, and
// who answers, or is to.
type Connection struct {
	Client, Called, Server netip.Addr
	Protocol               uint8
	CalledPort, ServerPort uint16
	Answered               bool
	// Closed is one of TCP that ended, of which the kernel keeps a trace for a while: a
	// first packet with the same ports begins another one.
	Closed bool
	// Reset is one of TCP that ended with a reset alone. A first packet with the same
	// ports goes on in it, and to where it led, unless the reset was the client's.
	Reset bool
}

const askStatistics = 5 // IPCTNL_MSG_CT_GET_STATS

func trackMessage(kind int, flags uint16, family byte, attrs []byte) Message {
	return netfilterMessage(unix.NFNL_SUBSYS_CTNETLINK, kind, flags, family, attrs)
}

// Connections is how many the namespace has.
func (n *Netfilter) Connections() (count uint32, err error) {
	err = n.s.Ask(trackMessage(askStatistics, 0, 0, nil), func(_ uint16, body []byte) {
		attributes(body, func(kind uint16, v []byte) {
			if kind == 1 && len(v) == 4 { // CTA_STATS_GLOBAL_ENTRIES
				count = binary.BigEndian.Uint32(v)
			}
		})
	})
	if err != nil {
		return 0, fmt.Errorf("count connections: %w", err)
	}
	return count, nil
}

// End makes the kernel forget the connections for which over is true. To find
// them is a walk through the table of all of the machine's, so a namespace that
// has none is not looked at. One that nobody has answered, and one that was closed or
// reset, is looked at once more right before: an answer that passes while the others
// are walked through makes it one that somebody uses, and when a client takes the port
// of a closed one again, the kernel gives the new one the same memory, and so the
// identity by which the old one was to be ended.
func (n *Netfilter) End(over func(Connection) bool) error {
	count, err := n.Connections()
	if err != nil || count == 0 {
		return err
	}
	type again struct {
		ask   Message
		ended bool
	}
	var ends []Message
	var waiting []again
	reset := func() { ends, waiting = ends[:0], waiting[:0] }
	err = n.s.DumpAll(trackMessage(nl.IPCTNL_MSG_CT_GET, 0, unix.AF_UNSPEC, nil), reset, func(_ uint16, body []byte) {
		switch c, which, ok := parseConnection(body); {
		case !ok || !over(c):
		case c.Answered && !c.ended() || len(waiting) == maxWaiting:
			ends = append(ends, trackMessage(nl.IPCTNL_MSG_CT_DELETE, 0, body[0], which))
		default:
			waiting = append(waiting, again{trackMessage(nl.IPCTNL_MSG_CT_GET, 0, body[0], which), c.ended()})
		}
	})
	if err != nil {
		return fmt.Errorf("read connections: %w", err)
	}
	first := n.forget(ends)
	for _, w := range waiting {
		var still []Message
		err := n.s.Ask(w.ask, func(_ uint16, body []byte) {
			if c, which, ok := parseConnection(body); ok && (c.ended() || !w.ended) && over(c) {
				still = append(still, trackMessage(nl.IPCTNL_MSG_CT_DELETE, 0, body[0], which))
			}
		})
		if err != nil && !errors.Is(err, unix.ENOENT) {
			first = OneLine(first, err)
			break
		}
		if err := n.forget(still); err != nil {
			first = OneLine(first, err)
			break
		}
	}
	if first != nil {
		return fmt.Errorf("end connections: %w", first)
	}
	return nil
}

// forget deletes connections, and returns the first refusal. That one ended by
// itself is none.
func (n *Netfilter) forget(ends []Message) error {
	var first error
	err := n.s.Do(ends, func(_ int, err error) {
		if first == nil && !errors.Is(err, unix.ENOENT) {
			first = err
		}
	})
	return OneLine(err, first)
}

// parseConnection reads what a dump says of one, and which are the attributes that
// say which it is.
func parseConnection(body []byte) (c Connection, which []byte, ok bool) {
	var sent, answered bool
	attributes(body, func(kind uint16, v []byte) {
		switch kind {
		case nl.CTA_TUPLE_ORIG:
			which = AppendAttribute(which, kind|unix.NLA_F_NESTED, v)
			c.Client, c.Called, c.Protocol, c.CalledPort, sent = parseTuple(v)
		case nl.CTA_TUPLE_REPLY:
			// Its port is the source's: it is the server's own.
			c.Server, _, _, _, answered = parseTuple(v)
			c.ServerPort = tuplePort(v, nl.CTA_PROTO_SRC_PORT)
		case nl.CTA_STATUS:
			c.Answered = len(v) == 4 && binary.BigEndian.Uint32(v)&seenReply != 0
		case nl.CTA_PROTOINFO:
			c.Closed, c.Reset = ended(v)
		case ctaID, ctaZone:
			which = AppendAttribute(which, kind, v)
		}
	})
	return c, slices.Clip(which), sent && answered && len(body) > 0
}

const (
	ctaID, ctaZone      = 12, 18
	seenReply           = 1 << 1 // IPS_SEEN_REPLY
	tcpTimeWait, tcpEnd = 7, 8   // TCP_CONNTRACK_TIME_WAIT, TCP_CONNTRACK_CLOSE
	// CTA_PROTOINFO_TCP_FLAGS_ORIGINAL and _REPLY: what either side did.
	flagsOriginal, flagsReply = 4, 5
	closeInit                 = 1 << 2 // IP_CT_TCP_FLAG_CLOSE_INIT
)

func (c *Connection) ended() bool { return c.Closed || c.Reset }

// ended says how a connection of TCP did, if it did. Where a side began to close it,
// the kernel lets a first packet begin another with the same ports
// (nf_conntrack_tcp_packet); where it was only reset, no packet but the client's own
// reset does that, and whose it was is not told.
func ended(protocol []byte) (closed, reset bool) {
	var state, did byte
	EachAttribute(protocol, func(kind uint16, v []byte) {
		EachAttribute(v, func(inner uint16, v []byte) {
			switch {
			case kind != nl.CTA_PROTOINFO_TCP:
			case inner == nl.CTA_PROTOINFO_TCP_STATE && len(v) == 1:
				state = v[0]
			case (inner == flagsOriginal || inner == flagsReply) && len(v) == 2: // flags, mask
				did |= v[0]
			}
		})
	})
	closed = state == tcpTimeWait || state == tcpEnd && did&closeInit != 0
	return closed, state == tcpEnd && !closed
}

func parseTuple(b []byte) (src, dst netip.Addr, proto uint8, port uint16, ok bool) {
	EachAttribute(b, func(kind uint16, v []byte) {
		EachAttribute(v, func(inner uint16, v []byte) {
			switch {
			case kind == nl.CTA_TUPLE_IP && (inner == nl.CTA_IP_V4_SRC || inner == nl.CTA_IP_V6_SRC):
				src, _ = netip.AddrFromSlice(v)
			case kind == nl.CTA_TUPLE_IP && (inner == nl.CTA_IP_V4_DST || inner == nl.CTA_IP_V6_DST):
				dst, _ = netip.AddrFromSlice(v)
			case kind == nl.CTA_TUPLE_PROTO && inner == nl.CTA_PROTO_NUM && len(v) == 1:
				proto = v[0]
			}
		})
	})
	return src, dst, proto, tuplePort(b, nl.CTA_PROTO_DST_PORT), src.IsValid() && dst.IsValid()
}

func tuplePort(b []byte, which uint16) (port uint16) {
	EachAttribute(b, func(kind uint16, v []byte) {
		EachAttribute(v, func(inner uint16, v []byte) {
			if kind == nl.CTA_TUPLE_PROTO && inner == which && len(v) == 2 {
				port = binary.BigEndian.Uint16(v)
			}
		})
	})
	return port
}
