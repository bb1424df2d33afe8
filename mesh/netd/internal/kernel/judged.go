package kernel

import (
	"encoding/binary"

	"github.com/google/nftables/expr"
)

// Judged are the words of a rule that set one of the marks, beside those that are
// there. They use register 1.
func Judged(mark uint32) []expr.Any {
	n := func(v uint32) []byte { return binary.NativeEndian.AppendUint32(nil, v) }
	return []expr.Any{&expr.Meta{Key: expr.MetaKeyMARK, Register: 1},
		&expr.Bitwise{SourceRegister: 1, DestRegister: 1, Len: 4, Mask: n(^mark), Xor: n(mark)},
		&expr.Meta{Key: expr.MetaKeyMARK, SourceRegister: true, Register: 1}}
}

// JudgedAt is the priority of what sets marks before routing, after whatever else
// does so there.
const JudgedAt = 300
