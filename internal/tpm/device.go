package tpm

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// ErrDevice says that the TPM does not answer, or not as a TPM does.
var ErrDevice = errors.New("the TPM does not answer")

// headerLen is that of a command and of an answer: tag, length, code.
const headerLen = 10

// device carries commands: one out, one answer in. One that failed may fail for ever.
type device interface {
	Send(command []byte) ([]byte, error)
	Close() error
}

// openDevice opens a character device, or connects to a unix socket.
func openDevice(path string) (device, error) {
	fi, err := os.Stat(path)
	if err != nil {
		return nil, err
	}
	switch {
	case fi.Mode()&os.ModeSocket != 0:
		c, err := net.DialTimeout("unix", path, dialTime)
		if err != nil {
			return nil, err
		}
		return socket{c}, nil
	case fi.Mode()&os.ModeCharDevice != 0:
		// Not the file of package os: without blocking, the driver answers a read
		// that came too early with nothing.
		fd, err := unix.Open(path, unix.O_RDWR|unix.O_CLOEXEC, 0)
		if err != nil {
			return nil, &os.PathError{Op: "open", Path: path, Err: err}
		}
		return charDevice{os.NewFile(uintptr(fd), path)}, nil
	}
	return nil, fmt.Errorf("%s is neither a character device, as /dev/tpmrm0 is, nor a unix socket", path)
}

// charDevice takes a command with one write, and gives the answer with one read.
type charDevice struct{ f *os.File }

func (d charDevice) Send(command []byte) ([]byte, error) {
	if _, err := d.f.Write(command); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrDevice, err)
	}
	answer := make([]byte, maxMessage)
	n, err := d.f.Read(answer)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrDevice, err)
	}
	return answer[:n], checkLength(answer[:n])
}

func (d charDevice) Close() error { return d.f.Close() }

// socket is a stream of commands and answers, each as long as its header says.
type socket struct{ c net.Conn }

// Send closes a socket that fails: an answer that comes late would be taken for that
// to the next command.
func (s socket) Send(command []byte) ([]byte, error) {
	answer, err := s.send(command)
	if err != nil {
		s.c.Close()
	}
	return answer, err
}

func (s socket) send(command []byte) ([]byte, error) {
	s.c.SetDeadline(time.Now().Add(commandTime))
	if _, err := s.c.Write(command); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrDevice, err)
	}
	answer := make([]byte, headerLen, maxMessage)
	if _, err := io.ReadFull(s.c, answer); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrDevice, err)
	}
	n := binary.BigEndian.Uint32(answer[2:])
	if n < headerLen || n > maxMessage {
		return nil, fmt.Errorf("%w: an answer of %d bytes", ErrDevice, n)
	}
	answer = answer[:n]
	if _, err := io.ReadFull(s.c, answer[headerLen:]); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrDevice, err)
	}
	return answer, nil
}

func (s socket) Close() error { return s.c.Close() }

func checkLength(answer []byte) error {
	if len(answer) < headerLen || binary.BigEndian.Uint32(answer[2:]) != uint32(len(answer)) {
		return fmt.Errorf("%w: an answer that is not as long as it says", ErrDevice)
	}
	return nil
}
