package raftstore

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"maps"
	"testing"
	"time"

	"github.com/hashicorp/raft"
	"google.golang.org/protobuf/proto"

	"github.com/redoubt-cluster/redoubt/raftstore/internal/testpb"
	"github.com/redoubt-cluster/redoubt/raftstore/raftstorepb"
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

func FuzzApply(f *testing.F) {
	f.Add([]byte{})
	f.Add(marshal(f, &raftstorepb.Command{Now: 5, Transactions: []*raftstorepb.Transaction{
		tx(putOp(f, 0, &testpb.Thing{Id: "a", Name: "n", Labels: []string{"l"}})),
		tx(putOp(f, 1, &testpb.Thing{Id: "a", Name: "m"}), &raftstorepb.Op{Table: "things", Id: "seed", ExpectVersion: 1}),
		{Reads: []*raftstorepb.Precondition{{Table: "things", Id: "a", Version: 3}}},
	}}))
	f.Fuzz(func(t *testing.T, data []byte) {
		// Two state machines given the same entry reach the same state.
		var states [2]string
		for i := range states {
			m := newTestFSM(t)
			apply(t, m, 1, 1, tx(putOp(t, 0, &testpb.Thing{Id: "seed", Name: "s"})))
			resp := m.Apply(&raft.Log{Index: 2, Data: bytes.Clone(data)})
			var snap bytes.Buffer
			if err := writeSnapshot(&snap, m.order, &reader{view: m.state, index: m.index, clock: m.clock}); err != nil {
				t.Fatal(err)
			}
			if _, _, err := readSnapshot(&snap, m.tables, m.understood); err != nil {
				t.Fatalf("the state cannot be read back: %v", err)
			}
			states[i] = fmt.Sprintf("%v %v", resp, contents(&ReadTx{reader{view: m.state}}))
		}
		if states[0] != states[1] {
			t.Fatalf("%s\n%s", states[0], states[1])
		}
	})
}

func FuzzSnapshotReader(f *testing.F) {
	m := newTestFSM(f)
	apply(f, m, 1, 1, tx(putOp(f, 0, &testpb.Thing{Id: "a", Name: "n", Labels: []string{"l", "k"}}), putOp(f, 0, &testpb.Thing{Id: "b"})))
	var buf bytes.Buffer
	if err := writeSnapshot(&buf, m.order, &reader{view: m.state, index: m.index, clock: m.clock}); err != nil {
		f.Fatal(err)
	}
	f.Add(buf.Bytes())
	f.Add([]byte{0})
	f.Fuzz(func(t *testing.T, data []byte) {
		db, head, err := readSnapshot(bytes.NewReader(data), m.tables, m.understood)
		if err != nil {
			return
		}
		// What was accepted can be written and read again, to the same state.
		var out bytes.Buffer
		if err := writeSnapshot(&out, m.order, &reader{view: db, index: head.Index, clock: head.Clock}); err != nil {
			t.Fatal(err)
		}
		again, _, err := readSnapshot(bytes.NewReader(out.Bytes()), m.tables, m.understood)
		if err != nil {
			t.Fatal(err)
		}
		a, b := contents(&ReadTx{reader{view: db}}), contents(&ReadTx{reader{view: again}})
		if !maps.EqualFunc(a, b, func(x, y *testpb.Thing) bool { return proto.Equal(x, y) }) {
			t.Fatal("the state changed on the way")
		}
	})
}
