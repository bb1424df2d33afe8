package kernel

import (
	"encoding/binary"
	"errors"
	"fmt"
	"strings"
	"sync"
	"unsafe"

	"golang.org/x/sys/unix"
)

// A Socket speaks netlink in one network namespace, from any thread. Changes of
// routes go in batches: thousands of them cost some system calls. The notices of
// what it changed carry its port, by which they are told from others'.
type Socket struct {
	fd   int
	port uint32

	mu  sync.Mutex // one conversation at a time; guards the following
	seq uint32
}

// A Message is one request; flags besides NLM_F_REQUEST and NLM_F_ACK.
type Message struct {
	Type, Flags uint16
	Body        []byte
}

// inbox lends buffers for answers: of many sockets few are in conversation.
var inbox = sync.Pool{New: func() any { return new([64 << 10]byte) }}

// OpenSocket opens one for routes, links and neighbours in the calling thread's
// namespace. Close it.
func OpenSocket() (*Socket, error) { return openSocket(unix.NETLINK_ROUTE, socketBuffer) }

func openSocket(protocol, buffer int) (*Socket, error) {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC, protocol)
	if err != nil {
		return nil, fmt.Errorf("netlink: %w", err)
	}
	s := &Socket{fd: fd}
	timeout := unix.NsecToTimeval(requestTimeout.Nanoseconds())
	err = OneLine(unix.Bind(fd, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}),
		unix.SetsockoptInt(fd, unix.SOL_NETLINK, unix.NETLINK_CAP_ACK, 1),
		unix.SetsockoptInt(fd, unix.SOL_NETLINK, unix.NETLINK_EXT_ACK, 1),
		unix.SetsockoptInt(fd, unix.SOL_NETLINK, unix.NETLINK_GET_STRICT_CHK, 1),
		unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_SNDBUFFORCE, buffer),
		unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, buffer),
		unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &timeout),
		unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_SNDTIMEO, &timeout))
	if err == nil {
		var own unix.Sockaddr
		if own, err = unix.Getsockname(fd); err == nil {
			s.port = own.(*unix.SockaddrNetlink).Pid
		}
	}
	if err != nil {
		unix.Close(fd)
		return nil, fmt.Errorf("netlink: %w", err)
	}
	return s, nil
}

func (s *Socket) Port() uint32 { return s.port }
func (s *Socket) Close() error { return unix.Close(s.fd) }

// Do sends all messages, one after another; failed is called with each that the
// kernel refused. The error is one of the conversation itself.
func (s *Socket) Do(messages []Message, failed func(i int, err error)) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	for from := 0; from < len(messages); {
		var out []byte
		to, first := from, s.seq+1
		for to < len(messages) && to-from < batchMessages && (len(out) == 0 || len(out)+len(messages[to].Body)+unix.NLMSG_HDRLEN <= batchBytes) {
			s.seq++
			out = s.put(out, messages[to], 0)
			to++
		}
		// Only the last is answered where it succeeds.
		last := out[lastMessage(out, messages[from:to]):]
		binary.NativeEndian.PutUint16(last[6:], binary.NativeEndian.Uint16(last[6:])|unix.NLM_F_ACK)
		if err := s.send(out); err != nil {
			return err
		}
		start := from
		if err := s.answers(s.seq, func(seq uint32, err error) { failed(start+int(seq-first), err) }); err != nil {
			return err
		}
		from = to
	}
	return nil
}

func (s *Socket) put(out []byte, m Message, flags uint16) []byte {
	out = binary.NativeEndian.AppendUint32(out, uint32(unix.NLMSG_HDRLEN+len(m.Body)))
	out = binary.NativeEndian.AppendUint16(out, m.Type)
	out = binary.NativeEndian.AppendUint16(out, m.Flags|flags|unix.NLM_F_REQUEST)
	out = binary.NativeEndian.AppendUint32(out, s.seq)
	out = binary.NativeEndian.AppendUint32(out, s.port)
	out = append(out, m.Body...)
	for len(out)%unix.NLMSG_ALIGNTO != 0 {
		out = append(out, 0)
	}
	return out
}

func lastMessage(out []byte, sent []Message) int {
	n := len(sent[len(sent)-1].Body) + unix.NLMSG_HDRLEN
	return len(out) - (n+unix.NLMSG_ALIGNTO-1)&^(unix.NLMSG_ALIGNTO-1)
}

func (s *Socket) send(b []byte) error {
	for {
		err := unix.Sendto(s.fd, b, 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK})
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil {
			return fmt.Errorf("netlink: send: %w", err)
		}
		return nil
	}
}

// receive calls fn with each message of the next datagram.
func (s *Socket) receive(fn func(h unix.NlMsghdr, body []byte) error) error {
	in := inbox.Get().(*[64 << 10]byte)
	defer inbox.Put(in)
	var n int
	for {
		var err error
		if n, _, err = unix.Recvfrom(s.fd, in[:], 0); err == nil {
			break
		} else if !errors.Is(err, unix.EINTR) {
			return fmt.Errorf("netlink: receive: %w", err)
		}
	}
	return Messages(in[:n], fn)
}

// Messages takes a datagram of netlink apart.
func Messages(b []byte, fn func(h unix.NlMsghdr, body []byte) error) error {
	for len(b) >= unix.NLMSG_HDRLEN {
		h := *(*unix.NlMsghdr)(unsafe.Pointer(unsafe.SliceData(b)))
		if h.Len < unix.NLMSG_HDRLEN || int(h.Len) > len(b) {
			return errors.New("netlink: a message is cut short")
		}
		if err := fn(h, b[unix.NLMSG_HDRLEN:h.Len]); err != nil {
			return err
		}
		b = b[min(len(b), int(h.Len+unix.NLMSG_ALIGNTO-1)&^(unix.NLMSG_ALIGNTO-1)):]
	}
	return nil
}

// answers reads until the message seq is answered.
func (s *Socket) answers(seq uint32, failed func(seq uint32, err error)) error {
	for done := false; !done; {
		err := s.receive(func(h unix.NlMsghdr, body []byte) error {
			if h.Type != unix.NLMSG_ERROR {
				return nil // of an earlier conversation that broke off
			}
			if err := refusal(h, body); err != nil && seq-h.Seq < batchMessages {
				failed(h.Seq, err)
			}
			done = done || h.Seq == seq
			return nil
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// refusal reads struct nlmsgerr and the kernel's words, where there are some.
func refusal(h unix.NlMsghdr, body []byte) error {
	const own = 4 + unix.NLMSG_HDRLEN
	if len(body) < own {
		return errors.New("netlink: an answer is cut short")
	}
	errno := -int32(binary.NativeEndian.Uint32(body))
	if errno == 0 {
		return nil
	}
	err := error(unix.Errno(errno))
	const capped, withWords, words = 0x100, 0x200, 1
	if h.Flags&withWords == 0 || h.Flags&capped == 0 {
		return err
	}
	EachAttribute(body[own:], func(kind uint16, value []byte) {
		if kind == words {
			err = fmt.Errorf("%w (%s)", err, strings.TrimRight(string(value), "\x00"))
		}
	})
	return err
}

// Ask sends a message and calls fn with each part of the answer.
func (s *Socket) Ask(m Message, fn func(kind uint16, body []byte)) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.seq++
	if err := s.send(s.put(nil, m, unix.NLM_F_ACK)); err != nil {
		return err
	}
	for done := false; !done; {
		err := s.receive(func(h unix.NlMsghdr, body []byte) error {
			switch {
			case h.Seq != s.seq:
			case h.Type == unix.NLMSG_ERROR:
				done = true
				return refusal(h, body)
			default:
				fn(h.Type, body)
			}
			return nil
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// ErrInterrupted says that what was read changed meanwhile: read it again.
var ErrInterrupted = errors.New("netlink: what is read changes without pause")

// Dump calls fn with each part of the answer.
func (s *Socket) Dump(m Message, fn func(kind uint16, body []byte)) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.seq++
	if err := s.send(s.put(nil, m, unix.NLM_F_DUMP)); err != nil {
		return err
	}
	interrupted := false
	for done := false; !done; {
		err := s.receive(func(h unix.NlMsghdr, body []byte) error {
			if h.Seq != s.seq {
				return nil
			}
			interrupted = interrupted || h.Flags&unix.NLM_F_DUMP_INTR != 0
			switch h.Type {
			case unix.NLMSG_DONE:
				done = true
				if len(body) >= 4 {
					if errno := -int32(binary.NativeEndian.Uint32(body)); errno > 0 {
						return unix.Errno(errno)
					}
				}
			case unix.NLMSG_ERROR:
				done = true
				return refusal(h, body)
			default:
				fn(h.Type, body)
			}
			return nil
		})
		if err != nil {
			return err
		}
	}
	if interrupted {
		return ErrInterrupted
	}
	return nil
}

// DumpAll is Dump, repeated where it was interrupted: reset comes before each try.
func (s *Socket) DumpAll(m Message, reset func(), fn func(kind uint16, body []byte)) error {
	for range maxCommits {
		reset()
		if err := s.Dump(m, fn); !errors.Is(err, ErrInterrupted) {
			return err
		}
	}
	return ErrInterrupted
}

// EachAttribute calls fn with each attribute. What is cut short ends it.
func EachAttribute(b []byte, fn func(kind uint16, value []byte)) {
	for len(b) >= unix.SizeofRtAttr {
		n := int(binary.NativeEndian.Uint16(b))
		if n < unix.SizeofRtAttr || n > len(b) {
			return
		}
		fn(binary.NativeEndian.Uint16(b[2:])&^(unix.NLA_F_NESTED|unix.NLA_F_NET_BYTEORDER), b[unix.SizeofRtAttr:n])
		b = b[min(len(b), (n+unix.NLMSG_ALIGNTO-1)&^(unix.NLMSG_ALIGNTO-1)):]
	}
}

// AppendAttribute appends one, with its padding.
func AppendAttribute(b []byte, kind uint16, value []byte) []byte {
	b = binary.NativeEndian.AppendUint16(b, uint16(unix.SizeofRtAttr+len(value)))
	b = binary.NativeEndian.AppendUint16(b, kind)
	b = append(b, value...)
	for len(b)%unix.NLMSG_ALIGNTO != 0 {
		b = append(b, 0)
	}
	return b
}
