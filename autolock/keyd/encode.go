package keyd

import (
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

// end returns an error unless everything was well formed and taken.
func (r *lpReader) end() error {
	if r.err == nil && len(r.rest) != 0 {
		r.err = errEncoding
	}
	return r.err
}
