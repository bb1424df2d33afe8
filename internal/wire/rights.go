package wire

import (
	"bytes"
	"fmt"
	"io"
	"net"
	"os"
	"runtime"

	"golang.org/x/sys/unix"
	"google.golang.org/protobuf/proto"
)

// WriteFiles sends m as one frame, and files with its first byte (SCM_RIGHTS).
// The files stay the caller's.
func WriteFiles(conn *net.UnixConn, m proto.Message, files ...*os.File) error {
	var b bytes.Buffer
	if err := Write(&b, m); err != nil {
		return err
	}
	var fds []int
	for _, f := range files {
		// Not Fd, which may make what others share with us block.
		raw, err := f.SyscallConn()
		if err == nil {
			err = raw.Control(func(fd uintptr) { fds = append(fds, int(fd)) })
		}
		if err != nil {
			return err
		}
	}
	n, _, err := conn.WriteMsgUnix(b.Bytes(), unix.UnixRights(fds...), nil)
	runtime.KeepAlive(files)
	if err == nil && n < b.Len() {
		_, err = conn.Write(b.Bytes()[n:])
	}
	return err
}

// ReadFiles is Read for a frame that comes with exactly so many files, or with
// none; any other number is an error. On an error none stays open.
func ReadFiles(conn *net.UnixConn, m proto.Message, count int) (files []*os.File, err error) {
	r := &rightsReader{conn: conn, most: count, oob: make([]byte, unix.CmsgSpace(4*max(count, 1)))}
	err = Read(r, m)
	if err == nil && len(r.files) != 0 && len(r.files) != count {
		err = fmt.Errorf("%w: it comes with %d files, not %d", ErrFrame, len(r.files), count)
	}
	if err != nil {
		r.close()
		return nil, err
	}
	return r.files, nil
}

// rightsReader collects what files come with the bytes.
type rightsReader struct {
	conn  *net.UnixConn
	most  int
	oob   []byte
	files []*os.File
}

func (r *rightsReader) Read(p []byte) (int, error) {
	n, oobn, flags, _, err := r.conn.ReadMsgUnix(p, r.oob)
	if terr := r.take(r.oob[:oobn]); terr != nil {
		return 0, terr
	}
	if flags&unix.MSG_CTRUNC != 0 || len(r.files) > r.most {
		return 0, fmt.Errorf("%w: it comes with more than %d files", ErrFrame, r.most)
	}
	if err == nil && n == 0 && len(p) > 0 {
		return 0, io.EOF
	}
	return n, err
}

func (r *rightsReader) take(oob []byte) error {
	if len(oob) == 0 {
		return nil
	}
	messages, err := unix.ParseSocketControlMessage(oob)
	if err != nil {
		return fmt.Errorf("%w: %v", ErrFrame, err)
	}
	for _, m := range messages {
		if m.Header.Level != unix.SOL_SOCKET || m.Header.Type != unix.SCM_RIGHTS {
			continue
		}
		fds, err := unix.ParseUnixRights(&m)
		if err != nil {
			return fmt.Errorf("%w: %v", ErrFrame, err)
		}
		for _, fd := range fds { // close-on-exec: the net package asks for it
			r.files = append(r.files, os.NewFile(uintptr(fd), "passed"))
		}
	}
	return nil
}

func (r *rightsReader) close() {
	for _, f := range r.files {
		f.Close()
	}
	r.files = nil
}
