package kernel

import (
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/google/nftables"
	"golang.org/x/sys/unix"
)

// Netfilter speaks to nftables and to the table of connections in one network
// namespace, from any thread. It is kept, not opened for each question: closing
// such a socket waits until the kernel has freed all that earlier transactions of
// the namespace deleted, which is milliseconds of waiting.
type Netfilter struct {
	s       *Socket
	ruleset *ruleset
}

// OpenNetfilter opens one in the calling thread's namespace. Close it.
func OpenNetfilter() (*Netfilter, error) {
	s, err := openSocket(unix.NETLINK_NETFILTER, nftSocketBuffer)
	if err != nil {
		return nil, err
	}
	r, err := useRuleset(s.fd)
	if err != nil {
		s.Close()
		return nil, err
	}
	return &Netfilter{s, r}, nil
}

func (n *Netfilter) Close() error {
	n.ruleset.release()
	return n.s.Close()
}

// netfilterMessage is one of a subsystem, with the header that all have.
func netfilterMessage(subsystem, kind int, flags uint16, family byte, attrs []byte) Message {
	return Message{Type: uint16(subsystem<<8 | kind), Flags: flags, Body: append([]byte{family, unix.NFNETLINK_V0, 0, 0}, attrs...)}
}

func nftMessage(kind int, flags uint16, family byte, attrs []byte) Message {
	return netfilterMessage(unix.NFNL_SUBSYS_NFTABLES, kind, flags, family, attrs)
}

// attributes calls fn with those after the header.
func attributes(body []byte, fn func(kind uint16, value []byte)) {
	EachAttribute(body[min(len(body), netfilterHeader):], fn)
}

const netfilterHeader = 4 // struct nfgenmsg

// Generation is the number of the namespace's ruleset; each commit of anybody
// increases it.
func (n *Netfilter) Generation() (gen uint32, err error) {
	found := false
	err = n.s.Ask(nftMessage(unix.NFT_MSG_GETGEN, 0, 0, nil), func(_ uint16, body []byte) {
		attributes(body, func(kind uint16, v []byte) {
			if kind == unix.NFTA_GEN_ID && len(v) == 4 {
				gen, found = binary.BigEndian.Uint32(v), true
			}
		})
	})
	if err == nil && !found {
		err = errors.New("the kernel did not say it")
	}
	if err != nil {
		return 0, fmt.Errorf("nftables generation: %w", err)
	}
	return gen, nil
}

// Holds reports whether the tables are as they were at the generation known: nobody
// else has changed anything of the namespace since, and we have not changed them.
// It returns the generation of now.
func (n *Netfilter) Holds(known uint32, tables ...*nftables.Table) (gen uint32, ok bool, err error) {
	if gen, err = n.Generation(); err != nil {
		return 0, false, err
	}
	last, ours := n.ruleset.holds(known, tables)
	return gen, known != 0 && gen == known || ours && gen == last, nil
}

// Commit makes what queue asks for of these tables in one transaction, which the
// kernel takes only at the generation at which it was made. known is that at which
// the tables were as the caller knows them, 0 if it does not know; same tells queue
// that they still are, and it then queues nothing that is there already. Commit
// returns the generation that the transaction began.
func (n *Netfilter) Commit(known uint32, tables []*nftables.Table, queue func(b *Batch, same bool) error) (gen uint32, err error) {
	return n.CommitAndRead(known, tables, queue, nil)
}

// CommitAndRead is Commit, and calls read when the transaction is in force. Should
// somebody else's fall between, it is made again: what is read is what was made.
func (n *Netfilter) CommitAndRead(known uint32, tables []*nftables.Table, queue func(b *Batch, same bool) error, read func() error) (gen uint32, err error) {
	n.ruleset.turn.Lock()
	defer n.ruleset.turn.Unlock()
	if last, ok := n.ruleset.holds(known, tables); ok {
		known = last
	}
	same := known != 0
	for range maxCommits {
		if known == 0 {
			if known, err = n.Generation(); err != nil {
				return 0, err
			}
		}
		b := newBatch()
		if err := queue(b, same); err != nil {
			return 0, err
		}
		messages, err := b.take()
		if err != nil {
			return 0, fmt.Errorf("nftables: %w", err)
		}
		if len(messages) == 0 {
			return known, nil
		}
		switch err := n.s.transact(known, messages); {
		case err == nil:
			gen := known + 1
			if gen == 0 { // which the kernel leaves out
				gen++
			}
			if idle, err := n.idle(known, messages); idle || err != nil {
				return known, err
			}
			n.ruleset.made(known, gen, about(messages))
			if read == nil {
				return gen, nil
			}
			readErr := read()
			now, err := n.Generation()
			if err == nil && now == gen {
				err = readErr
			}
			if err != nil {
				return 0, err
			}
			if now == gen {
				return gen, nil
			}
		case !errors.Is(err, unix.ERESTART):
			return 0, fmt.Errorf("nftables: %w", err)
		}
		known, same = 0, false
	}
	return 0, errWithoutPause
}

// idle reports whether a transaction made no generation, as all that it asked for was
// there. Callers do not mean to make such; should one all the same, the next
// generation is a stranger's, and would be taken for ours.
func (n *Netfilter) idle(found uint32, messages []Message) (bool, error) {
	for _, m := range messages {
		switch m.Type &^ (unix.NFNL_SUBSYS_NFTABLES << 8) {
		case unix.NFT_MSG_NEWTABLE, unix.NFT_MSG_NEWCHAIN, unix.NFT_MSG_NEWSET, unix.NFT_MSG_NEWSETELEM, unix.NFT_MSG_NEWOBJ:
		default:
			return false, nil // a deletion and a rule are a change
		}
	}
	now, err := n.Generation()
	return now == found, err
}

// Read calls read without anybody's transaction between its questions, and
// returns the generation at which the answers are true.
func (n *Netfilter) Read(read func() error) (gen uint32, err error) {
	n.ruleset.turn.Lock()
	defer n.ruleset.turn.Unlock()
	for range maxCommits {
		before, err := n.Generation()
		if err != nil {
			return 0, err
		}
		readErr := read()
		now, err := n.Generation()
		if err != nil {
			return 0, err
		}
		if now == before {
			return now, readErr
		}
	}
	return 0, errWithoutPause
}

var errWithoutPause = errors.New("nftables: the ruleset of this node is changed by others without pause: stop what does it")

// transact sends all messages as one transaction of nftables, which is refused
// with ERESTART at any other generation. Only what fails is answered, and the last
// message.
func (s *Socket) transact(gen uint32, messages []Message) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	subsystem := binary.BigEndian.AppendUint16([]byte{unix.AF_UNSPEC, unix.NFNETLINK_V0}, unix.NFNL_SUBSYS_NFTABLES)
	size := 0
	for _, m := range messages {
		size += unix.NLMSG_HDRLEN + (len(m.Body)+3)&^3
	}
	out := make([]byte, 0, size+128)
	s.seq++
	begin := s.seq
	out = s.put(out, Message{Type: unix.NFNL_MSG_BATCH_BEGIN, Body: AppendAttribute(subsystem, unix.NFNL_BATCH_GENID, binary.BigEndian.AppendUint32(nil, gen))}, 0)
	for i, m := range messages {
		s.seq++
		ack := uint16(0)
		if i == len(messages)-1 {
			ack = unix.NLM_F_ACK
		}
		out = s.put(out, m, ack)
	}
	last := s.seq
	s.seq++
	out = s.put(out, Message{Type: unix.NFNL_MSG_BATCH_END, Body: subsystem}, 0)
	if err := s.send(out); err != nil {
		return err
	}
	var first error
	failures := 0
	for done := false; !done; {
		err := s.receive(func(h unix.NlMsghdr, body []byte) error {
			if h.Type != unix.NLMSG_ERROR || h.Seq-begin > last-begin {
				return nil // of an earlier conversation that broke off
			}
			err := refusal(h, body)
			if err != nil {
				if failures++; first == nil {
					first = err
					if h.Seq != begin {
						first = fmt.Errorf("message %d of %d (type %#x): %w", h.Seq-begin, len(messages), messages[h.Seq-begin-1].Type, err)
					}
				}
			}
			// What is wrong with all of it is said of its beginning, and mostly
			// nothing follows.
			done = done || h.Seq == last || h.Seq == begin && err != nil
			return nil
		})
		if err != nil {
			return err
		}
	}
	if failures > 1 {
		return fmt.Errorf("%w; and %d more", first, failures-1)
	}
	return first
}
