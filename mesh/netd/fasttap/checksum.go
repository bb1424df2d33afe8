package fasttap

import (
	"encoding/binary"
	"math/bits"
)

// sum adds the 16-bit words of b, in network order, to a partial ones'
// complement sum. An odd last byte counts as if a zero followed.
func sum(b []byte, partial uint16) uint16 {
	// The sum does not depend on the order of bytes: words are added as the
	// processor likes them, eight bytes at a time, and swapped in the end.
	acc, carry := uint64(bits.ReverseBytes16(partial)), uint64(0)
	for len(b) >= 64 {
		acc, carry = bits.Add64(acc, binary.LittleEndian.Uint64(b), carry)
		acc, carry = bits.Add64(acc, binary.LittleEndian.Uint64(b[8:]), carry)
		acc, carry = bits.Add64(acc, binary.LittleEndian.Uint64(b[16:]), carry)
		acc, carry = bits.Add64(acc, binary.LittleEndian.Uint64(b[24:]), carry)
		acc, carry = bits.Add64(acc, binary.LittleEndian.Uint64(b[32:]), carry)
		acc, carry = bits.Add64(acc, binary.LittleEndian.Uint64(b[40:]), carry)
		acc, carry = bits.Add64(acc, binary.LittleEndian.Uint64(b[48:]), carry)
		acc, carry = bits.Add64(acc, binary.LittleEndian.Uint64(b[56:]), carry)
		b = b[64:]
	}
	for len(b) >= 8 {
		acc, carry = bits.Add64(acc, binary.LittleEndian.Uint64(b), carry)
		b = b[8:]
	}
	if len(b) > 0 {
		var rest [8]byte
		copy(rest[:], b)
		acc, carry = bits.Add64(acc, binary.LittleEndian.Uint64(rest[:]), carry)
	}
	acc, carry = bits.Add64(acc, 0, carry)
	acc += carry
	acc = acc>>32 + acc&0xffffffff
	acc = acc>>32 + acc&0xffffffff
	acc = acc>>16 + acc&0xffff
	acc = acc>>16 + acc&0xffff
	return bits.ReverseBytes16(uint16(acc))
}

// add is the ones' complement sum of two words.
func add(a, b uint16) uint16 {
	s := uint32(a) + uint32(b)
	return uint16(s + s>>16)
}

// finish makes a checksum of a sum. Zero, which in UDP says that there is none,
// is written as its other form, as the kernel does.
func finish(s uint16) uint16 {
	if s == 0xffff {
		return 0xffff
	}
	return ^s
}

// pseudo is the sum of the pseudo header in front of a transport header. addrs
// are source and destination.
func pseudo(addrs []byte, proto uint8, length int) uint16 {
	return add(add(sum(addrs, 0), uint16(proto)), uint16(length))
}
