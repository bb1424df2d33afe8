package keyd

import (
	"encoding/binary"
	"errors"

	"github.com/redoubt-cluster/redoubt/internal/lp"
)

var errEncoding = errors.New("malformed encoding")

// lpReader takes length-prefixed parts off the front of a buffer, without
// copying: the parts of a keyset stay in locked memory.
type lpReader struct {
	rest []byte
	err  error
}

func (r *lpReader) part() []byte {
	if r.err != nil {
		return nil
	}
	p, rest, ok := lp.Take(r.rest)
	if !ok {
		r.err = errEncoding
		return nil
	}
	r.rest = rest
	return p
}

// fixed is a part of exactly n bytes.
func (r *lpReader) fixed(n int) []byte {
	p := r.part()
	if r.err == nil && len(p) != n {
		r.err = errEncoding
	}
	return p
}

// epoch is a part that is a number.
func (r *lpReader) epoch() uint64 {
	if b := r.fixed(8); r.err == nil {
		return binary.BigEndian.Uint64(b)
	}
	return 0
}

// end returns an error unless everything was well formed and taken.
func (r *lpReader) end() error {
	if r.err == nil && len(r.rest) != 0 {
		r.err = errEncoding
	}
	return r.err
}
