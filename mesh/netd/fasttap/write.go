package fasttap

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"sync"
	"unsafe"

	"golang.org/x/sys/unix"
)

// A writer gives frames to the kernel.
type writer struct {
	mu    sync.Mutex // held by one Write
	dev   *tap
	merge merger
	flush func(fd uintptr) bool

	// What stands before a packet that is written as it came: an empty
	// description and an Ethernet header.
	front4, front6 [frontLen]byte
	head           []byte // and before one that was merged
	iov            []unix.Iovec

	// Of the Write that runs.
	next int // the item that is written next
	err  error
}

func (w *writer) init(d *tap, vxlanPort uint16, udp bool) {
	w.dev = d
	w.merge.udp = udp
	if d.mode == TunnelGSO {
		w.merge.vxlanPort = vxlanPort
	}
	w.head = make([]byte, 0, frontLen+maxHeaders)
	w.flush = w.writeAll
	binary.BigEndian.PutUint16(w.front4[frontLen-2:], etherTypeIPv4)
	binary.BigEndian.PutUint16(w.front6[frontLen-2:], etherTypeIPv6)
	// The sender is nobody in particular: no frame comes from elsewhere.
	copy(w.front4[vnetLen+6:], []byte{2, 0, 0, 0, 0, 1})
	copy(w.front6[vnetLen+6:], []byte{2, 0, 0, 0, 0, 1})
}

// setMAC sets to whom frames are addressed: the kernel drops others'.
func (w *writer) setMAC(m [6]byte) {
	w.mu.Lock()
	defer w.mu.Unlock()
	copy(w.front4[vnetLen:], m[:])
	copy(w.front6[vnetLen:], m[:])
}

// Write gives packets to the kernel, merged where they belong together. It
// returns how many it took; those that the kernel refuses are lost.
func (d *tap) Write(bufs [][]byte, offset int) (int, error) {
	w := &d.write
	w.mu.Lock()
	defer w.mu.Unlock()
	defer w.merge.reset()
	for _, buf := range bufs {
		if offset < 0 || offset >= len(buf) {
			return 0, fmt.Errorf("offset %d in a packet of %d bytes", offset, len(buf))
		}
		w.merge.add(buf[offset:])
	}
	w.next, w.err = 0, nil
	err := d.raw.Write(w.flush)
	if d.closed() {
		return 0, os.ErrClosed
	}
	if err == nil {
		err = w.err
	}
	if err != nil {
		return 0, err
	}
	return len(bufs), nil
}

// writeAll is called with the descriptor; false asks to be called again when the
// kernel may take more.
func (w *writer) writeAll(fd uintptr) bool {
	for w.next < w.merge.used {
		it := &w.merge.items[w.next]
		switch err := w.writeItem(fd, it); {
		case err == nil:
			if len(it.more) > 0 {
				w.dev.merged.Add(uint64(len(it.more) + 1))
			}
		case errors.Is(err, unix.EAGAIN):
			return false
		case errors.Is(err, unix.EINVAL) && len(it.more) > 0:
			w.takeApart(it)
			continue
		default:
			w.err = fmt.Errorf("write to the interface: %w", err)
		}
		w.next++
	}
	return true
}

// takeApart writes the packets of an item that the kernel refused one by one,
// from the next item on, and merges no tunnel again.
func (w *writer) takeApart(it *item) {
	w.dev.unmerged.Add(1)
	if it.shape.tunnel {
		w.merge.vxlanPort = 0
	}
	w.merge.takeApart(w.next)
}

// writeItem writes one frame.
func (w *writer) writeItem(fd uintptr, it *item) error {
	w.iov = w.iov[:0]
	if len(it.more) == 0 {
		if it.first[0]>>4 == 6 {
			w.gather(w.front6[:])
		} else {
			w.gather(w.front4[:])
		}
		w.gather(it.first)
		return w.writev(fd)
	}
	w.head = it.head(w.head)
	front := &w.front4
	if w.head[frontLen]>>4 == 6 {
		front = &w.front6
	}
	copy(w.head[vnetLen:frontLen], front[vnetLen:])
	w.gather(w.head)
	w.gather(it.first[it.shape.payload:])
	for _, pkt := range it.more {
		w.gather(pkt[it.shape.payload:])
	}
	return w.writev(fd)
}

func (w *writer) gather(b []byte) {
	v := unix.Iovec{Base: unsafe.SliceData(b)}
	v.SetLen(len(b))
	w.iov = append(w.iov, v)
}

func (w *writer) writev(fd uintptr) error {
	for {
		_, _, errno := unix.Syscall(unix.SYS_WRITEV, fd, uintptr(unsafe.Pointer(&w.iov[0])), uintptr(len(w.iov)))
		switch errno {
		case 0:
			return nil
		case unix.EINTR:
		case unix.EBADFD:
			return os.ErrClosed // the interface was removed
		default:
			return errno
		}
	}
}
