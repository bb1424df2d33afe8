package raftstore

import (
	"bytes"
	"encoding/binary"
	"testing"
	"time"

	"github.com/hashicorp/raft"
)

// memMark is the watermark's file in memory.
type memMark struct{ *bytes.Reader }

func (memMark) WriteAt([]byte, int64) (int, error) { panic("load writes nothing") }
func (memMark) Sync() error                        { return nil }
func (memMark) Close() error                       { return nil }

// FuzzMark loads a watermark of any bytes, which here are sealed by nothing:
// what whoever holds the key may have written. It is refused, or is that of a
// slot that was read, the newer one of the two.
func FuzzMark(f *testing.F) {
	slot := func(seq uint64) []byte {
		out := binary.BigEndian.AppendUint32(nil, markPlain)
		for _, v := range []uint64{seq, 2, 3, 4, 5} {
			out = binary.BigEndian.AppendUint64(out, v)
		}
		return append(append(out, 1), make([]byte, markSlotBytes-len(out)-1)...)
	}
	f.Add(append(slot(1), slot(2)...))
	f.Add(append(slot(2), make([]byte, markSlotBytes)...))
	f.Add(make([]byte, markSlots*markSlotBytes))
	f.Add([]byte{0xff, 0xff, 0xff, 0xff})
	f.Fuzz(func(t *testing.T, file []byte) {
		w := &watermark{file: memMark{bytes.NewReader(file)}, bind: &binder{sealer: clearSealer{}}}
		if err := w.load(); err != nil {
			return
		}
		if w.empty {
			if w.seq != 0 || w.at != (marked{}) {
				t.Fatalf("an empty one says %+v", w.at)
			}
			return
		}
		for _, at := range []int{0, markSlotBytes} {
			if len(file) >= at+4+markPlain && binary.BigEndian.Uint32(file[at:]) == markPlain {
				plain := file[at+4 : at+4+markPlain]
				seq := binary.BigEndian.Uint64(plain)
				if seq > w.seq || seq == w.seq && seq > 0 && at == 0 && decodeMark(plain) != w.at {
					t.Fatalf("slot at %d has %d, and %d was taken", at, seq, w.seq)
				}
			}
		}
	})
}

// FuzzLogPlain decodes what is sealed of a log entry. What is taken is written
// back as the same bytes.
func FuzzLogPlain(f *testing.F) {
	f.Add(appendLog(nil, &raft.Log{Data: []byte("data"), Extensions: []byte("ext"), AppendedAt: time.Unix(1, 2)}))
	f.Add(appendLog(nil, &raft.Log{}))
	f.Add([]byte{0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 0xff, 0xff})
	f.Fuzz(func(t *testing.T, plain []byte) {
		var l raft.Log
		if err := decodeLog(plain, &l); err != nil {
			return
		}
		if again := appendLog(nil, &l); !bytes.Equal(again, plain) {
			t.Fatalf("%x is taken, and written as %x", plain, again)
		}
	})
}
