package tasklog

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"
)

// Query selects records.
type Query struct {
	// Since drops records that are not newer; zero drops none.
	Since time.Time
	// Until, when set, drops records that are not older.
	Until time.Time
	// Tail keeps only the last records of what is there at the start;
	// negative keeps all.
	Tail int
	// Follow goes on until Done is closed, then reads what is left.
	Follow bool
	Done   <-chan struct{}
}

func (q Query) before(r Record) bool { return q.Until.IsZero() || r.Time.Before(q.Until) }

// Read calls emit for each record in dir that q selects, oldest first. A log
// that was never written is empty. Records that are not ours are skipped.
func Read(ctx context.Context, dir string, q Query, emit func(Record) error) error {
	var watch *watcher
	if q.Follow {
		var err error
		if watch, err = newWatcher(dir); err != nil {
			return err
		}
		defer watch.close()
	}
	wanted := func(r Record) error {
		if r.Time.After(q.Since) && q.before(r) {
			return emit(r)
		}
		return nil
	}
	old, err := open(filepath.Join(dir, older))
	if err != nil {
		return err
	}
	cur, err := open(filepath.Join(dir, current))
	if err != nil {
		return errors.Join(err, old.close())
	}
	if old != nil && cur != nil && os.SameFile(old.info, cur.info) {
		old.close()
		old = nil // rotated between the two calls
	}
	defer func() { cur.close() }()

	skip, err := toSkip(q, old, cur)
	if err == nil {
		first := func(r Record) error {
			if skip > 0 && q.before(r) {
				skip--
				return nil
			}
			return wanted(r)
		}
		err = errors.Join(old.drain(first), cur.drain(first))
	}
	if err = errors.Join(err, old.close()); err != nil || !q.Follow {
		return err
	}
	for ended := false; ; {
		next, err := open(filepath.Join(dir, current))
		if err != nil {
			return err
		}
		if err := cur.drain(wanted); err != nil {
			return errors.Join(err, next.close())
		}
		if next != nil && (cur == nil || !os.SameFile(cur.info, next.info)) {
			cur.close()
			cur = next
			continue
		}
		next.close()
		if ended {
			return nil
		}
		if ended, err = watch.wait(ctx, q.Done); err != nil {
			return err
		}
	}
}

// toSkip counts the records before the tail.
func toSkip(q Query, files ...*file) (int, error) {
	if q.Tail < 0 {
		return 0, nil
	}
	total := 0
	for _, f := range files {
		n, err := f.count(q)
		if err != nil {
			return 0, err
		}
		total += n
	}
	return max(0, total-q.Tail), nil
}

// file is one log file read from start to end, and again when it has grown. A
// nil file is empty.
type file struct {
	*os.File
	info fs.FileInfo
	rest []byte // an incomplete record at the end
}

func open(path string) (*file, error) {
	f, err := os.OpenFile(path, os.O_RDONLY|unix.O_NOFOLLOW, 0)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	fi, err := f.Stat()
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return &file{File: f, info: fi}, nil
}

func (f *file) close() error {
	if f == nil {
		return nil
	}
	return f.Close()
}

// count counts the records that a tail is made of.
func (f *file) count(q Query) (n int, err error) {
	if f == nil {
		return 0, nil
	}
	if !q.Until.IsZero() {
		err := f.drain(func(r Record) error {
			if q.before(r) {
				n++
			}
			return nil
		})
		f.rest = nil
		_, serr := f.Seek(0, io.SeekStart)
		return n, errors.Join(err, serr)
	}
	buf := make([]byte, 64<<10)
	for off := int64(0); ; {
		k, err := f.ReadAt(buf, off)
		n += bytes.Count(buf[:k], []byte{'\n'})
		off += int64(k)
		if errors.Is(err, io.EOF) {
			return n, nil
		}
		if err != nil {
			return n, err
		}
	}
}

func (f *file) drain(emit func(Record) error) error {
	if f == nil {
		return nil
	}
	br := bufio.NewReaderSize(f, maxRecord)
	for {
		line, err := br.ReadSlice('\n')
		if err != nil { // incomplete, or longer than any record of ours
			if len(f.rest)+len(line) <= maxRecord {
				f.rest = append(f.rest, line...)
			}
			if errors.Is(err, bufio.ErrBufferFull) {
				continue
			}
			if errors.Is(err, io.EOF) {
				return nil
			}
			return err
		}
		if len(f.rest) > 0 {
			line = append(f.rest, line...)
			f.rest = nil
		}
		r, err := parseRecord(line[:len(line)-1])
		if err != nil {
			continue
		}
		if err := emit(r); err != nil {
			return err
		}
	}
}
