// Package tasklog keeps what a task's container writes: two files of bounded
// size in the task's directory, written by a small logger process and read by
// rund.
//
// The logger is started by containerd's shim, not by rund, so output flows
// while rund is down and a container never blocks on it. Each line carries time
// and stream. When the current file is full it replaces the older one: the last
// LogBytes to 2×LogBytes of output are kept. Logs are not encrypted; they live
// below the run directory, which is a tmpfs on a normal installation.
//
// A record is one line of text:
//
//	<unix nanoseconds> <o|e> <F|P> <data>\n
//
// o and e are stdout and stderr; P marks a piece of a line that goes on in the
// next record of its stream, F the end of a line.
package tasklog

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"time"
)

const (
	current = "log"
	older   = "log.1"

	// MaxData bounds the data of one record; longer lines are split.
	MaxData = 16 << 10
	// maxRecord is MaxData and the longest header.
	maxRecord = MaxData + 32
)

// Record is a line, or a piece of one, of a container's output.
type Record struct {
	Time    time.Time
	Stderr  bool
	Partial bool
	// Data has no newline; it is valid only until the next record.
	Data []byte
}

var errRecord = errors.New("malformed log record")

func appendRecord(b []byte, r Record) []byte {
	b = strconv.AppendInt(b, r.Time.UnixNano(), 10)
	stream, part := byte('o'), byte('F')
	if r.Stderr {
		stream = 'e'
	}
	if r.Partial {
		part = 'P'
	}
	b = append(b, ' ', stream, ' ', part, ' ')
	b = append(b, r.Data...)
	return append(b, '\n')
}

// parseRecord reads a record without its newline.
func parseRecord(line []byte) (Record, error) {
	stamp, rest, ok := bytes.Cut(line, []byte{' '})
	if !ok || len(rest) < 4 || rest[1] != ' ' || rest[3] != ' ' || len(rest)-4 > MaxData {
		return Record{}, errRecord
	}
	ns, err := strconv.ParseInt(string(stamp), 10, 64)
	if err != nil || strconv.FormatInt(ns, 10) != string(stamp) {
		return Record{}, errRecord
	}
	r := Record{Time: time.Unix(0, ns), Data: rest[4:]}
	switch rest[0] {
	case 'o':
	case 'e':
		r.Stderr = true
	default:
		return Record{}, errRecord
	}
	switch rest[2] {
	case 'F':
	case 'P':
		r.Partial = true
	default:
		return Record{}, errRecord
	}
	if bytes.IndexByte(r.Data, '\n') >= 0 {
		return Record{}, errRecord
	}
	return r, nil
}

// Writer appends records. It may be used by several goroutines.
type Writer struct {
	dir string
	max int64

	mu   sync.Mutex
	f    *os.File
	size int64
	buf  []byte
}

// NewWriter opens the log in dir; no file of it grows over max bytes.
func NewWriter(dir string, max int64) (*Writer, error) {
	if max < maxRecord {
		return nil, fmt.Errorf("log size %d is below one record (%d)", max, maxRecord)
	}
	w := &Writer{dir: dir, max: max}
	return w, w.open()
}

func (w *Writer) open() error {
	f, err := os.OpenFile(filepath.Join(w.dir, current), os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o600)
	if err != nil {
		return err
	}
	fi, err := f.Stat()
	if err != nil {
		return errors.Join(err, f.Close())
	}
	w.f, w.size = f, fi.Size()
	return nil
}

// Write appends r. On an error the record is lost; the next one is tried anew.
func (w *Writer) Write(r Record) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.buf = appendRecord(w.buf[:0], r)
	if w.size+int64(len(w.buf)) > w.max {
		if err := w.rotate(); err != nil {
			return err
		}
	}
	n, err := w.f.Write(w.buf)
	w.size += int64(n)
	if n > 0 && n < len(w.buf) { // a full disk: do not leave half a record
		if terr := w.f.Truncate(w.size - int64(n)); terr == nil {
			w.size -= int64(n)
		}
	}
	return err
}

func (w *Writer) rotate() error {
	if err := os.Rename(filepath.Join(w.dir, current), filepath.Join(w.dir, older)); err != nil {
		return err
	}
	old := w.f
	if err := w.open(); err != nil {
		return err
	}
	return old.Close()
}

// Close ends writing.
func (w *Writer) Close() error {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.f.Close()
}
