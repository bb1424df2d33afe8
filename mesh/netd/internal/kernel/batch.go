package kernel

import (
	"encoding/binary"
	"io"

	"github.com/google/nftables"
	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

// A Batch collects the messages of one transaction, in the order in which they
// are queued.
type Batch struct {
	words *nftables.Conn
	out   []Message
}

func newBatch() *Batch {
	b := &Batch{}
	// The library writes the messages and we send them, so its connection is one
	// that leads back here. It would have each message answered, and open a
	// socket for each transaction.
	b.words, _ = nftables.New(nftables.WithTestDial(func(req []netlink.Message) ([]netlink.Message, error) {
		for _, m := range req {
			if kind := uint16(m.Header.Type); kind != unix.NFNL_MSG_BATCH_BEGIN && kind != unix.NFNL_MSG_BATCH_END {
				flags := uint16(m.Header.Flags) &^ (unix.NLM_F_ACK | unix.NLM_F_ECHO)
				b.out = append(b.out, Message{Type: kind, Flags: flags, Body: m.Data})
			}
		}
		return nil, io.EOF // nothing is answered
	}))
	return b
}

// Words is for what the library has words for; nothing is sent or read by it.
func (b *Batch) Words() *nftables.Conn { return b.words }

// take is what was queued.
func (b *Batch) take() ([]Message, error) {
	err := b.words.Flush()
	return b.out, err
}

// An Element is one of a set: its key and, in a map, what that leads to; Chain
// where it is a verdict to go there.
type Element struct{ Key, Val, Chain string }

// Add and Remove queue elements of a set, in messages as large as they may be.
func (b *Batch) Add(s *nftables.Set, elements []Element) error {
	return b.elements(unix.NFT_MSG_NEWSETELEM, s, elements)
}

func (b *Batch) Remove(s *nftables.Set, elements []Element) error {
	return b.elements(unix.NFT_MSG_DELSETELEM, s, elements)
}

func (b *Batch) elements(kind int, s *nftables.Set, elements []Element) error {
	if len(elements) == 0 {
		return nil
	}
	if _, err := b.take(); err != nil { // what was queued before comes before
		return err
	}
	for len(elements) > 0 {
		body := []byte{byte(s.Table.Family), unix.NFNETLINK_V0, 0, 0}
		body = AppendAttribute(body, unix.NFTA_SET_ELEM_LIST_TABLE, append([]byte(s.Table.Name), 0))
		body = AppendAttribute(body, unix.NFTA_SET_ELEM_LIST_SET, append([]byte(s.Name), 0))
		body = AppendAttribute(body, unix.NFTA_SET_ELEM_LIST_SET_ID, binary.BigEndian.AppendUint32(nil, s.ID))
		at := len(body)
		body = openNest(body, unix.NFTA_SET_ELEM_LIST_ELEMENTS)
		for len(elements) > 0 && len(body)-at < maxElementBytes {
			body = elements[0].append(body)
			elements = elements[1:]
		}
		closeNest(body, at)
		b.out = append(b.out, Message{Type: uint16(unix.NFNL_SUBSYS_NFTABLES<<8 | kind), Flags: unix.NLM_F_CREATE, Body: body})
	}
	return nil
}

func (e Element) append(b []byte) []byte {
	element := len(b)
	b = openNest(b, unix.NFTA_LIST_ELEM)
	key := len(b)
	b = appendText(openNest(b, unix.NFTA_SET_ELEM_KEY), unix.NFTA_DATA_VALUE, e.Key, "")
	closeNest(b, key)
	if e.Chain != "" || e.Val != "" {
		data := len(b)
		b = openNest(b, unix.NFTA_SET_ELEM_DATA)
		if e.Chain == "" {
			b = appendText(b, unix.NFTA_DATA_VALUE, e.Val, "")
		} else {
			verdict := len(b)
			b = appendGoTo(openNest(b, unix.NFTA_DATA_VERDICT), e.Chain)
			closeNest(b, verdict)
		}
		closeNest(b, data)
	}
	closeNest(b, element)
	return b
}

// Told is how the kernel tells what the key leads to, see EachElement.
func (e Element) Told() string {
	if e.Chain == "" {
		return e.Val
	}
	return string(appendGoTo(nil, e.Chain))
}

func appendGoTo(b []byte, chain string) []byte {
	goTo := int32(unix.NFT_GOTO)
	b = AppendAttribute(b, unix.NFTA_VERDICT_CODE, binary.BigEndian.AppendUint32(nil, uint32(goTo)))
	return appendText(b, unix.NFTA_VERDICT_CHAIN, chain, "\x00")
}

func openNest(b []byte, kind uint16) []byte {
	return AppendAttribute(b, kind|unix.NLA_F_NESTED, nil)
}

func closeNest(b []byte, at int) { binary.NativeEndian.PutUint16(b[at:], uint16(len(b)-at)) }

// appendText is AppendAttribute for strings.
func appendText(b []byte, kind uint16, value, end string) []byte {
	b = binary.NativeEndian.AppendUint16(b, uint16(unix.SizeofRtAttr+len(value)+len(end)))
	b = binary.NativeEndian.AppendUint16(b, kind)
	b = append(append(b, value...), end...)
	for len(b)%unix.NLMSG_ALIGNTO != 0 {
		b = append(b, 0)
	}
	return b
}
