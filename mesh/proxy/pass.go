package proxy

import (
	"errors"
	"io"
	"net"
	"sync"

	"golang.org/x/sys/unix"
)

var buffers = sync.Pool{New: func() any { return new([bufferSize]byte) }}

// pass hands on what from sends until that ends, and then ends what to is sent.
// Where either breaks, both are reset. before comes before each wait for one of
// them.
func pass(to, from *net.TCPConn, before func()) {
	if err := passOn(to, from, before); err != nil {
		reset(to)
		reset(from)
		return
	}
	_ = to.CloseWrite() // it may have closed already
}

func passOn(to, from *net.TCPConn, before func()) error {
	raw, err := from.SyscallConn()
	if err != nil {
		return err
	}
	for {
		before()
		err := passOnce(to, raw.Read, before)
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
	}
}

// passOnce waits until there is something, and only then takes a buffer.
func passOnce(to io.Writer, read func(func(fd uintptr) bool) error, before func()) error {
	var buffer *[bufferSize]byte
	var n int
	var failed error
	err := read(func(fd uintptr) bool {
		b := buffers.Get().(*[bufferSize]byte)
		for {
			if n, failed = unix.Read(int(fd), b[:]); failed != unix.EINTR {
				break
			}
		}
		if failed == unix.EAGAIN {
			buffers.Put(b)
			return false
		}
		buffer = b
		return true
	})
	if buffer != nil {
		defer buffers.Put(buffer)
	}
	switch {
	case err != nil:
		return err
	case failed != nil:
		return failed
	case n == 0:
		return io.EOF
	}
	before()
	_, err = to.Write(buffer[:n])
	return err
}
