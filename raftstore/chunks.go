package raftstore

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
)

// A chunk stream is a row of sealed chunks, each preceded by its length in four
// bytes. Every chunk is bound to the snapshot, to its number and to whether it
// is the last, so that a stream which was cut, extended, mixed or put in
// another order does not open. The last chunk may be empty.

// chunkWriter seals what is written to it; Close writes the last chunk.
type chunkWriter struct {
	w    io.Writer
	bind *binder
	id   string
	n    uint64
	buf  []byte
}

func newChunkWriter(w io.Writer, bind *binder, id string) *chunkWriter {
	return &chunkWriter{w: w, bind: bind, id: id, buf: make([]byte, 0, snapshotChunkBytes)}
}

// Write implements io.Writer.
func (c *chunkWriter) Write(p []byte) (int, error) {
	done := 0
	for len(p) > 0 {
		if len(c.buf) == snapshotChunkBytes {
			if err := c.flush(false); err != nil {
				return done, err
			}
		}
		n := min(len(p), snapshotChunkBytes-len(c.buf))
		c.buf = append(c.buf, p[:n]...)
		p, done = p[n:], done+n
	}
	return done, nil
}

// Close implements io.Closer.
func (c *chunkWriter) Close() error { return c.flush(true) }

func (c *chunkWriter) flush(last bool) error {
	sealed, err := c.bind.sealer.Seal(labelSnapshot, c.bind.chunkAAD(c.id, c.n, last), c.buf)
	if err != nil {
		return err
	}
	if len(sealed) > snapshotChunkBytes+maxSealedOverhead {
		return fmt.Errorf("the sealer adds %d bytes to a chunk, more than %d", len(sealed)-len(c.buf), maxSealedOverhead)
	}
	if _, err := c.w.Write(binary.BigEndian.AppendUint32(nil, uint32(len(sealed)))); err != nil {
		return err
	}
	if _, err := c.w.Write(sealed); err != nil {
		return err
	}
	c.n++
	c.buf = c.buf[:0]
	return nil
}

// chunkReader gives the plaintext of a chunk stream, and io.EOF only after the
// last chunk and exactly size bytes.
type chunkReader struct {
	r    io.ReadCloser
	bind *binder
	id   string
	size int64
	read int64
	n    uint64
	buf  []byte
	err  error // sticky

	failed func(error) // told why the stream does not open
}

func newChunkReader(r io.ReadCloser, bind *binder, id string, size int64) *chunkReader {
	return &chunkReader{r: r, bind: bind, id: id, size: size, failed: func(error) {}}
}

// Close implements io.Closer.
func (c *chunkReader) Close() error { return c.r.Close() }

// Read implements io.Reader.
func (c *chunkReader) Read(p []byte) (int, error) {
	for len(c.buf) == 0 {
		if c.err != nil {
			return 0, c.err
		}
		c.next()
	}
	n := copy(p, c.buf)
	c.buf = c.buf[n:]
	return n, nil
}

func (c *chunkReader) next() {
	last, err := c.chunk()
	switch {
	case err != nil:
		c.err = fmt.Errorf("snapshot %s, chunk %d: %w", c.id, c.n, err)
	case c.read > c.size, last && c.read != c.size:
		c.buf = nil
		c.err = fmt.Errorf("snapshot %s: it does not have the %d bytes that its description says: %w", c.id, c.size, errLost)
	case last:
		c.err = io.EOF
	}
	if c.err != nil && !errors.Is(c.err, io.EOF) {
		c.failed(c.err)
	}
	c.n++
}

// chunk reads and opens one chunk. Which of the two flags opens it tells
// whether it is the last; then the file must end here.
func (c *chunkReader) chunk() (last bool, err error) {
	var head [4]byte
	if _, err := io.ReadFull(c.r, head[:]); err != nil {
		return false, truncated(err)
	}
	n := binary.BigEndian.Uint32(head[:])
	if n > snapshotChunkBytes+maxSealedOverhead {
		return false, fmt.Errorf("%w: %w", errMalformed, errLost)
	}
	sealed := make([]byte, n)
	if _, err := io.ReadFull(c.r, sealed); err != nil {
		return false, truncated(err)
	}
	plain, err := c.bind.sealer.Open(labelSnapshot, c.bind.chunkAAD(c.id, c.n, false), sealed)
	if err != nil {
		last = true
		plain, err = c.bind.sealer.Open(labelSnapshot, c.bind.chunkAAD(c.id, c.n, true), sealed)
	}
	if err != nil {
		return false, fmt.Errorf("it %w", unopened(err))
	}
	if last {
		if n, err := c.r.Read(head[:1]); n != 0 || !errors.Is(err, io.EOF) {
			return false, fmt.Errorf("the file goes on after the last chunk: %w", errLost)
		}
	}
	c.buf = plain
	c.read += int64(len(plain))
	return last, nil
}

func truncated(err error) error {
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		return fmt.Errorf("the file is cut off: %w", errLost)
	}
	return err
}
