// Package lp is the one encoding under everything that Redoubt signs, seals or
// authenticates: a part is its length in four bytes, big-endian, and then its
// bytes. A string made of a label and such parts can be read in one way only, so
// no two different inputs give the same bytes. docs/formats.md writes it lp(x).
//
// It knows no label and no key; who builds a string says what it is for.
package lp

import "encoding/binary"

// Append appends the length of part, and part.
func Append(dst, part []byte) []byte {
	return append(binary.BigEndian.AppendUint32(dst, uint32(len(part))), part...)
}

// Take takes one part off the front of b, without copying; ok is false where b
// does not begin with a whole one.
func Take(b []byte) (part, rest []byte, ok bool) {
	if len(b) < 4 {
		return nil, nil, false
	}
	n := binary.BigEndian.Uint32(b)
	if uint64(n) > uint64(len(b)-4) {
		return nil, nil, false
	}
	return b[4 : 4+n : 4+n], b[4+n:], true
}
