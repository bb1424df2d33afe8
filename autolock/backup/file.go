package backup

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"hash"
	"io"

	"github.com/redoubt-cluster/redoubt/autolock"
	"github.com/redoubt-cluster/redoubt/internal/lp"
)

// magic opens a file; its last byte is the format.
const magic = "RDTB\x01"

// Errors of a file.
var (
	ErrNoBackup = errors.New("this is no backup of Redoubt")
	ErrNewer    = errors.New("the backup was written by a newer version of Redoubt: use that version")
	ErrCut      = errors.New("the backup is cut off: it does not end as a backup does")
	ErrDigest   = errors.New("the backup is damaged: its digest does not match")
	ErrTrailing = errors.New("the backup is damaged: something follows its end")
)

// Writer writes a backup. Close ends it; without that it does not verify.
type Writer struct {
	w      io.Writer
	sum    hash.Hash
	sealer *autolock.Sealer
	head   []byte // digest of the head
	buf    []byte
	n      uint64
}

// NewWriter writes the opening of a backup. It copies stateKey.
func NewWriter(w io.Writer, head, stateKey []byte) (*Writer, error) {
	s, err := autolock.NewSealer(stateKey, keyEpoch)
	if err != nil {
		return nil, err
	}
	b := &Writer{sum: sha256.New(), sealer: s, head: headDigest(head), buf: make([]byte, 0, chunkBytes)}
	b.w = io.MultiWriter(w, b.sum)
	_, err = b.w.Write(lp.Append([]byte(magic), head))
	return b, err
}

// Write implements io.Writer.
func (b *Writer) Write(p []byte) (int, error) {
	done := 0
	for len(p) > 0 {
		if len(b.buf) == chunkBytes {
			if err := b.flush(false); err != nil {
				return done, err
			}
		}
		n := min(len(p), chunkBytes-len(b.buf))
		b.buf = append(b.buf, p[:n]...)
		p, done = p[n:], done+n
	}
	return done, nil
}

// Close writes the last chunk and the digest.
func (b *Writer) Close() error {
	defer b.sealer.Close()
	if err := b.flush(true); err != nil {
		return err
	}
	if _, err := b.w.Write(make([]byte, 4)); err != nil { // no chunk is empty when sealed
		return err
	}
	_, err := b.w.Write(b.sum.Sum(nil))
	return err
}

func (b *Writer) flush(last bool) error {
	sealed, err := b.sealer.Seal(sealLabel, chunkAAD(b.head, b.n, last), b.buf)
	if err != nil {
		return err
	}
	clear(b.buf)
	b.buf, b.n = b.buf[:0], b.n+1
	_, err = b.w.Write(lp.Append(nil, sealed))
	return err
}

func headDigest(head []byte) []byte {
	sum := sha256.Sum256(head)
	return sum[:]
}

func chunkAAD(head []byte, n uint64, last bool) []byte {
	flag := byte(0)
	if last {
		flag = 1
	}
	out := lp.Append([]byte("redoubt backup chunk v1\x00"), head)
	out = lp.Append(out, binary.BigEndian.AppendUint64(nil, n))
	return lp.Append(out, []byte{flag})
}

// Reader reads a backup. Head is there at once; Verify checks the rest without
// a key, State gives it with one. A Reader does one of the two, once.
type Reader struct {
	Head *Head
	// Raw is the head as it stands in the file.
	Raw []byte
	r   io.Reader
	sum hash.Hash
}

// NewReader reads the opening of a backup.
func NewReader(r io.Reader) (*Reader, error) {
	b := &Reader{sum: sha256.New()}
	b.r = io.TeeReader(r, b.sum)
	var start [len(magic)]byte
	if _, err := io.ReadFull(b.r, start[:]); err != nil {
		return nil, cut(err, ErrNoBackup)
	}
	const format = len(magic) - 1
	switch {
	case string(start[:format]) != magic[:format]:
		return nil, ErrNoBackup
	case start[format] != magic[format]:
		return nil, ErrNewer
	}
	var err error
	if b.Raw, err = b.part(maxHead); err != nil {
		return nil, err
	}
	b.Head, err = Parse(b.Raw)
	return b, err
}

// part reads one length-prefixed part; nil is the end mark.
func (b *Reader) part(most int) ([]byte, error) {
	var n [4]byte
	if _, err := io.ReadFull(b.r, n[:]); err != nil {
		return nil, cut(err, ErrCut)
	}
	size := binary.BigEndian.Uint32(n[:])
	if uint64(size) > uint64(most) {
		return nil, ErrMalformed
	}
	if size == 0 {
		return nil, nil
	}
	p := make([]byte, size)
	if _, err := io.ReadFull(b.r, p); err != nil {
		return nil, cut(err, ErrCut)
	}
	return p, nil
}

// end checks the digest and that nothing follows.
func (b *Reader) end() error {
	want := b.sum.Sum(nil)
	var got [sha256.Size]byte
	if _, err := io.ReadFull(b.r, got[:]); err != nil {
		return cut(err, ErrCut)
	}
	if !bytes.Equal(got[:], want) {
		return ErrDigest
	}
	if n, err := b.r.Read(got[:1]); n != 0 {
		return ErrTrailing
	} else if !errors.Is(err, io.EOF) {
		return fmt.Errorf("read the backup: %w", err)
	}
	return nil
}

// Verify reads the rest and checks that the file is whole.
func (b *Reader) Verify() error {
	chunks := 0
	for {
		p, err := b.part(chunkBytes + autolock.Overhead)
		if err != nil {
			return err
		}
		if p == nil {
			break
		}
		chunks++
	}
	if chunks == 0 {
		return ErrMalformed
	}
	return b.end()
}

// State writes the state to w: chunks that are genuine only, and an error unless
// all of the file was.
func (b *Reader) State(w io.Writer, stateKey []byte) error {
	s, err := autolock.NewSealer(stateKey, keyEpoch)
	if err != nil {
		return err
	}
	defer s.Close()
	head := headDigest(b.Raw)
	for n, last := uint64(0), false; ; n++ {
		p, err := b.part(chunkBytes + autolock.Overhead)
		switch {
		case err != nil:
			return err
		case p == nil && last:
			return b.end()
		case p == nil, last:
			return ErrDamaged
		}
		plain, err := s.Open(sealLabel, chunkAAD(head, n, false), p)
		if err != nil {
			last = true
			plain, err = s.Open(sealLabel, chunkAAD(head, n, true), p)
		}
		if err != nil {
			return ErrDamaged
		}
		if _, err := w.Write(plain); err != nil {
			return err
		}
	}
}

func cut(err, as error) error {
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		return as
	}
	return fmt.Errorf("read the backup: %w", err)
}
