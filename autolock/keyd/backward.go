package keyd

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
)

// backward reads the lines of a journal's file, the last first, and of the file no
// more than it must.
type backward struct {
	file *os.File
	at   int64  // what is before it was not read yet
	read []byte // from there on, and not returned yet
	done bool   // the first line was returned
}

// openBackward begins at an end, which is behind a line and before its newline;
// negative: the file's own.
func openBackward(path string, end int64) (*backward, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	b := &backward{file: f}
	if b.at, err = b.endOf(end); err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return b, nil
}

func (b *backward) endOf(end int64) (int64, error) {
	fi, err := b.file.Stat()
	size := int64(0)
	if err == nil {
		size = fi.Size()
	}
	switch {
	case err != nil:
		return 0, err
	case size > 2*maxJournal:
		return 0, fmt.Errorf("%s is larger than %d bytes", b.file.Name(), 2*maxJournal)
	case end > size:
		return 0, errJournalDamaged
	case end >= 0:
		return end, nil
	case size == 0:
		b.done = true
		return 0, nil
	}
	last := make([]byte, 1)
	if _, err := b.file.ReadAt(last, size-1); err != nil {
		return 0, err
	}
	if last[0] == '\n' {
		size--
	}
	return size, nil
}

// line returns the line before the one that it returned last, without its newline,
// and where it ends; io.EOF before the first one. It is good until the next call.
func (b *backward) line() (text []byte, end int64, err error) {
	if b.done {
		return nil, 0, io.EOF
	}
	for {
		end = b.at + int64(len(b.read))
		if i := bytes.LastIndexByte(b.read, '\n'); i >= 0 {
			text, b.read = b.read[i+1:], b.read[:i]
			return text, end, nil
		}
		if b.at == 0 {
			b.done = true
			if text = b.read; string(text)+"\n" == journalMagic {
				return nil, 0, io.EOF
			}
			return text, end, nil
		}
		if len(b.read) > maxLine {
			return nil, 0, errJournalDamaged
		}
		more := make([]byte, min(b.at, backwardBlock), min(b.at, backwardBlock)+int64(len(b.read)))
		if _, err := b.file.ReadAt(more, b.at-int64(len(more))); err != nil {
			return nil, 0, err
		}
		b.at, b.read = b.at-int64(len(more)), append(more, b.read...)
	}
}
