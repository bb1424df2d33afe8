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
