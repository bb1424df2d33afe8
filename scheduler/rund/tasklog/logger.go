package tasklog

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/redoubt-cluster/redoubt/internal/sandbox"
	"golang.org/x/sys/unix"
	"kernel.org/pub/linux/libs/security/libcap/cap"
)

// Command is the subcommand under which a binary must call Main.
const Command = "logger"

// Spec tells the logger process what to do. It travels in its arguments and
// holds nothing secret.
type Spec struct {
	Dir      string
	MaxBytes int64
	// Owner of the pipes on the host: the container's user, so that it may
	// open /dev/stdout anew.
	UID, GID uint32
}

// String is one argument on purpose: containerd hands arguments to the logger
// in no particular order.
func (s Spec) String() string {
	return fmt.Sprintf("%d:%d:%d:%s", s.UID, s.GID, s.MaxBytes, s.Dir)
}

// ParseSpec reads the form that String writes.
func ParseSpec(arg string) (Spec, error) {
	f := strings.SplitN(arg, ":", 4)
	if len(f) != 4 || !filepath.IsAbs(f[3]) || filepath.Clean(f[3]) != f[3] {
		return Spec{}, errors.New("logger: want UID:GID:BYTES:DIRECTORY")
	}
	uid, err1 := strconv.ParseUint(f[0], 10, 32)
	gid, err2 := strconv.ParseUint(f[1], 10, 32)
	size, err3 := strconv.ParseInt(f[2], 10, 64)
	s := Spec{Dir: f[3], MaxBytes: size, UID: uint32(uid), GID: uint32(gid)}
	if errors.Join(err1, err2, err3) != nil || s.String() != arg {
		return Spec{}, errors.New("logger: want UID:GID:BYTES:DIRECTORY")
	}
	return s, nil
}

// Main is the logger process as containerd's shim starts it: the container's
// output on descriptors 3 and 4, and 5 to say that it is ready. It keeps no
// capability and can reach no file outside its directory. It ends when the
// container's last process has closed both pipes.
func Main(args []string) error {
	if len(args) != 1 {
		return errors.New("logger: want one argument; it is started by containerd's shim")
	}
	spec, err := ParseSpec(args[0])
	if err != nil {
		return err
	}
	// The shim asks with SIGTERM when the task is deleted; by then both pipes
	// are at their end, and until then output would be lost.
	signal.Ignore(syscall.SIGTERM, syscall.SIGINT, syscall.SIGHUP)
	stdout, stderr, ready := os.NewFile(3, "stdout"), os.NewFile(4, "stderr"), os.NewFile(5, "ready")
	if stdout == nil || stderr == nil || ready == nil {
		return errors.New("logger: descriptors 3 to 5 are not open; it is started by containerd's shim")
	}
	for fd := 3; fd <= 4; fd++ {
		if err := unix.Fchown(fd, int(spec.UID), int(spec.GID)); err != nil {
			return fmt.Errorf("logger: own the pipe: %w", err)
		}
	}
	w, err := NewWriter(spec.Dir, spec.MaxBytes)
	if err != nil {
		return fmt.Errorf("logger: %w", err)
	}
	if err := confine(spec.Dir); err != nil {
		return fmt.Errorf("logger: %w", err)
	}
	if _, err := ready.Write([]byte{0}); err != nil {
		return fmt.Errorf("logger: %w", err)
	}
	if err := ready.Close(); err != nil {
		return fmt.Errorf("logger: %w", err)
	}
	var wg sync.WaitGroup
	wg.Go(func() { Copy(w, stdout, false) })
	wg.Go(func() { Copy(w, stderr, true) })
	wg.Wait()
	return w.Close()
}

func confine(dir string) error {
	if err := cap.NewSet().SetProc(); err != nil {
		return fmt.Errorf("drop capabilities: %w", err)
	}
	_, err := sandbox.Apply(sandbox.Profile{
		Syscalls: sandbox.Minimal,
		Files:    &sandbox.Files{ReadWrite: []string{dir}},
	})
	return err
}

// Copy writes r to w as records until r ends. A failing disk loses output; it
// never stops the container.
func Copy(w *Writer, r io.Reader, isStderr bool) {
	br := bufio.NewReaderSize(r, MaxData)
	for {
		line, err := br.ReadSlice('\n')
		partial := errors.Is(err, bufio.ErrBufferFull)
		if n := len(line); n > 0 {
			if line[n-1] == '\n' {
				line = line[:n-1]
			}
			_ = w.Write(Record{Time: time.Now(), Stderr: isStderr, Partial: partial, Data: line})
		}
		if err != nil && !partial {
			return
		}
	}
}
