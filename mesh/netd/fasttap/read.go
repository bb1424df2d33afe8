package fasttap

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"sync"

	"golang.org/x/sys/unix"
)

// A reader takes frames from the kernel.
type reader struct {
	mu    sync.Mutex // held by one Read
	dev   *tap
	frame []byte      // the kernel's header and a frame
	super superPacket // refers to frame
	batch func(fd uintptr) bool

	// Of the Read that runs.
	bufs   [][]byte
	sizes  []int
	offset int
	n      int
	err    error
}

func (r *reader) init(d *tap) {
	r.dev = d
	r.frame = make([]byte, frontLen+maxPacket+1) // one more byte shows what was cut off
	r.batch = r.fill
}

// Read fills bufs with all packets that wait, and waits for one where there is
// none.
func (d *tap) Read(bufs [][]byte, sizes []int, offset int) (int, error) {
	r := &d.read
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(bufs) == 0 || len(sizes) < len(bufs) || offset < 0 {
		return 0, fmt.Errorf("%d buffers and %d sizes at %d: there must be a size for each buffer", len(bufs), len(sizes), offset)
	}
	r.bufs, r.sizes, r.offset, r.n, r.err = bufs, sizes, offset, 0, nil
	err := d.raw.Read(r.batch)
	r.bufs, r.sizes = nil, nil
	if d.closed() {
		return 0, os.ErrClosed
	}
	if err == nil {
		err = r.err
	}
	return r.n, err
}

// fill is called with the descriptor when there may be something to read; false
// asks to be called again when there is.
func (r *reader) fill(fd uintptr) bool {
	for r.n < len(r.bufs) {
		if r.super.pending() {
			r.cut()
			continue
		}
		n, err := unix.Read(int(fd), r.frame)
		switch {
		case err == nil:
			r.take(n)
		case errors.Is(err, unix.EINTR):
		case errors.Is(err, unix.EAGAIN):
			return r.n > 0
		case r.n > 0: // it will be said again
			return true
		case errors.Is(err, unix.EBADFD):
			r.err = os.ErrClosed // the interface was removed
			return true
		default:
			r.err = fmt.Errorf("read from the interface: %w", err)
			return true
		}
	}
	return true
}

// take looks at the n bytes in frame.
func (r *reader) take(n int) {
	if n < frontLen || n == len(r.frame) {
		r.dev.refused.Add(1)
		return
	}
	h := decodeVnet(r.frame)
	frame := r.frame[vnetLen:n]
	switch binary.BigEndian.Uint16(frame[12:]) {
	case etherTypeIPv4, etherTypeIPv6:
	default:
		return // a layer 3 interface has nothing else
	}
	if h.gsoType != unix.VIRTIO_NET_HDR_GSO_NONE {
		if err := r.super.begin(h, frame); err != nil {
			r.dev.refused.Add(1)
		}
		return
	}
	pkt, err := plain(h, frame)
	if buf := r.room(); err == nil && len(pkt) <= len(buf) {
		r.sizes[r.n] = copy(buf, pkt)
		r.n++
		return
	}
	r.dev.refused.Add(1)
}

// cut makes packets of the super-packet as long as there are buffers.
func (r *reader) cut() {
	before := r.n
	for r.n < len(r.bufs) && r.super.pending() {
		n, err := r.super.packet(r.room())
		if err != nil {
			r.dev.refused.Add(1)
			break
		}
		r.sizes[r.n] = n
		r.n++
	}
	r.dev.cut.Add(uint64(r.n - before))
}

// room is where the next packet is written to.
func (r *reader) room() []byte {
	buf := r.bufs[r.n]
	return buf[min(r.offset, len(buf)):]
}
