package raftstore

import (
	"bytes"
	"errors"
	"io"
	"maps"
	"slices"
	"testing"

	"github.com/hashicorp/raft"
	"google.golang.org/protobuf/proto"
	"pgregory.net/rapid"

	"github.com/redoubt-cluster/redoubt/raftstore/internal/testpb"
	"github.com/redoubt-cluster/redoubt/raftstore/raftstorepb"
)

var things = NewTable("things",
	Index[*testpb.Thing]{Name: "name", Unique: true, Keys: func(t *testpb.Thing) []string {
		if t.GetName() == "" {
			return nil
		}
		return []string{t.GetName()}
	}},
	Index[*testpb.Thing]{Name: "label", Keys: (*testpb.Thing).GetLabels},
).Summing(
	Sum[*testpb.Thing]{Name: "label", Of: func(t *testpb.Thing) (string, Amounts) {
		if len(t.GetLabels()) == 0 {
			return "", Amounts{}
		}
		return t.GetLabels()[0], Amounts{1, int64(len(t.GetName()))}
	}},
	Sum[*testpb.Thing]{Name: "all", Of: func(*testpb.Thing) (string, Amounts) { return "things", Amounts{2: 1} }},
)

func newTestFSM(t testing.TB) *fsm {
	f, err := newFSM([]Registered{things}, func(error) {})
	if err != nil {
		t.Fatal(err)
	}
	return f
}

func marshal(t testing.TB, m proto.Message) []byte {
	data, err := proto.Marshal(m)
	if err != nil {
		t.Fatal(err)
	}
	return data
}

func putOp(t testing.TB, version uint64, o *testpb.Thing) *raftstorepb.Op {
	return &raftstorepb.Op{Table: "things", Id: o.GetId(), ExpectVersion: version, Object: marshal(t, o)}
}

func apply(t testing.TB, f *fsm, index uint64, now int64, txs ...*raftstorepb.Transaction) []error {
	t.Helper()
	resp := f.Apply(&raft.Log{Index: index, Data: marshal(t, &raftstorepb.Command{Now: now, Transactions: txs})})
	results, ok := resp.([]error)
	if !ok {
		t.Fatalf("entry %d: %v", index, resp)
	}
	return results
}

func tx(ops ...*raftstorepb.Op) *raftstorepb.Transaction { return &raftstorepb.Transaction{Ops: ops} }

func TestTransactionsOfOneEntryFailAlone(t *testing.T) {
	f := newTestFSM(t)
	results := apply(t, f, 5, 100,
		tx(putOp(t, 0, &testpb.Thing{Id: "a", Name: "n"})),
		tx(putOp(t, 0, &testpb.Thing{Id: "b"}), putOp(t, 0, &testpb.Thing{Id: "c", Name: "n"})), // undone: the name is taken
		tx(putOp(t, 0, &testpb.Thing{Id: "b", Number: 1})),
		&raftstorepb.Transaction{
			Ops:   []*raftstorepb.Op{putOp(t, 0, &testpb.Thing{Id: "d"})},
			Reads: []*raftstorepb.Precondition{{Table: "things", Id: "a", Version: 4}},
		},
		&raftstorepb.Transaction{
			Ops:   []*raftstorepb.Op{putOp(t, 0, &testpb.Thing{Id: "e"})},
			Reads: []*raftstorepb.Precondition{{Table: "things", Id: "a", Version: 5}, {Table: "things", Id: "d"}},
		},
	)
	var dup *DuplicateError
	if results[0] != nil || !errors.As(results[1], &dup) || results[2] != nil || !errors.Is(results[3], ErrConflict) || results[4] != nil {
		t.Fatalf("results %v", results)
	}
	r, err := f.read()
	if err != nil {
		t.Fatal(err)
	}
	if got := slices.Collect(maps.Keys(contents(r))); len(got) != 3 {
		t.Fatalf("objects %v", got)
	}
	if b := contents(r)["b"]; b.GetNumber() != 1 || b.GetMeta().GetVersion() != 5 {
		t.Fatalf("b is %v", b)
	}
}

func TestUniqueKeysMayBeExchanged(t *testing.T) {
	f := newTestFSM(t)
	apply(t, f, 1, 1, tx(putOp(t, 0, &testpb.Thing{Id: "a", Name: "x"}), putOp(t, 0, &testpb.Thing{Id: "b", Name: "y"})))
	swap := tx(putOp(t, 1, &testpb.Thing{Id: "a", Name: "y"}), putOp(t, 1, &testpb.Thing{Id: "b", Name: "x"}))
	if err := apply(t, f, 2, 2, swap)[0]; err != nil {
		t.Fatal(err)
	}
	half := tx(putOp(t, 2, &testpb.Thing{Id: "a", Name: "x"}), &raftstorepb.Op{Table: "things", Id: "a", ExpectVersion: 2})
	if err := apply(t, f, 3, 3, half)[0]; !errors.Is(err, ErrConflict) {
		t.Fatalf("two writes of one object: %v", err)
	}
	r, err := f.read()
	if err != nil {
		t.Fatal(err)
	}
	if got := idsOf(things.By(r, "name", "x")); !slices.Equal(got, []string{"b"}) {
		t.Fatalf("x belongs to %v", got)
	}
}

func contents(r Reader) map[string]*testpb.Thing {
	out := map[string]*testpb.Thing{}
	for o := range things.All(r) {
		out[o.GetId()] = o
	}
	return out
}

func TestClockNeverRunsBackwards(t *testing.T) {
	f := newTestFSM(t)
	apply(t, f, 1, 1000, tx(putOp(t, 0, &testpb.Thing{Id: "a"})))
	apply(t, f, 2, 10, tx(putOp(t, 1, &testpb.Thing{Id: "a", Meta: &raftstorepb.Meta{Version: 77, CreatedAt: 5, UpdatedAt: 5}})))
	r, err := f.read()
	if err != nil {
		t.Fatal(err)
	}
	m := contents(r)["a"].GetMeta()
	if m.GetVersion() != 2 || m.GetCreatedAt() != 1000 || m.GetUpdatedAt() != 1000 {
		t.Fatalf("meta %v", m)
	}
}

func TestWhatIsNotUnderstoodHalts(t *testing.T) {
	unknownField := append(marshal(t, &testpb.Thing{Id: "a"}), 0xfa, 0x7f, 0x01, 'x')
	for name, data := range map[string][]byte{
		"garbage":       []byte("\xff\xff\xff"),
		"unknown field": append(marshal(t, &raftstorepb.Command{Now: 1}), 0xfa, 0x7f, 0x01, 'x'),
		"unknown table": marshal(t, &raftstorepb.Command{Transactions: []*raftstorepb.Transaction{
			tx(&raftstorepb.Op{Table: "others", Id: "a", Object: []byte{}})}}),
		"unknown table in a precondition": marshal(t, &raftstorepb.Command{Transactions: []*raftstorepb.Transaction{
			{Reads: []*raftstorepb.Precondition{{Table: "others", Id: "a"}}}}}),
		"unknown field of an object": marshal(t, &raftstorepb.Command{Transactions: []*raftstorepb.Transaction{
			tx(&raftstorepb.Op{Table: "things", Id: "a", Object: unknownField})}}),
		"id does not match": marshal(t, &raftstorepb.Command{Transactions: []*raftstorepb.Transaction{
			tx(&raftstorepb.Op{Table: "things", Id: "b", Object: marshal(t, &testpb.Thing{Id: "a"})})}}),
		"second transaction": marshal(t, &raftstorepb.Command{Transactions: []*raftstorepb.Transaction{
			tx(putOp(t, 0, &testpb.Thing{Id: "new"})), tx(&raftstorepb.Op{Table: "others", Id: "a"})}}),
	} {
		t.Run(name, func(t *testing.T) {
			var told error
			f, err := newFSM([]Registered{things}, func(err error) { told = err })
			if err != nil {
				t.Fatal(err)
			}
			apply(t, f, 1, 1, tx(putOp(t, 0, &testpb.Thing{Id: "kept"})))
			if _, isErr := f.Apply(&raft.Log{Index: 2, Data: data}).(error); !isErr || told == nil {
				t.Fatalf("it goes on; told %v", told)
			}
			if _, isErr := f.Apply(&raft.Log{Index: 3, Data: marshal(t, &raftstorepb.Command{})}).(error); !isErr {
				t.Fatal("a later entry is applied")
			}
			if _, err := f.read(); err == nil {
				t.Fatal("reads go on")
			}
			if _, err := f.Snapshot(); err == nil {
				t.Fatal("a snapshot of a halted state is made")
			}
			if n := len(contents(&ReadTx{reader{view: f.state}})); n != 1 || f.index != 1 {
				t.Fatalf("the halting entry left %d objects at index %d", n, f.index)
			}
		})
	}
}

// TestApplyAgainstModel applies random transactions to the state machine and to
// plain maps with the rules written down anew.
func TestApplyAgainstModel(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		f := newTestFSM(t)
		model := map[string]*testpb.Thing{}
		id := rapid.SampledFrom([]string{"a", "b", "c", "d"})
		name := rapid.SampledFrom([]string{"", "x", "y", "z"})
		for index := uint64(1); index <= 12; index++ {
			var txs []*raftstorepb.Transaction
			for range rapid.IntRange(1, 3).Draw(rt, "txs") {
				var ops []*raftstorepb.Op
				for range rapid.IntRange(1, 3).Draw(rt, "ops") {
					i := id.Draw(rt, "id")
					v := model[i].GetMeta().GetVersion()
					if rapid.IntRange(0, 9).Draw(rt, "stale") == 0 {
						v++
					}
					if rapid.IntRange(0, 3).Draw(rt, "delete") == 0 {
						ops = append(ops, &raftstorepb.Op{Table: "things", Id: i, ExpectVersion: v})
					} else {
						ops = append(ops, putOp(t, v, &testpb.Thing{Id: i, Name: name.Draw(rt, "name"), Labels: []string{name.Draw(rt, "label") + "l"}}))
					}
				}
				txs = append(txs, tx(ops...))
			}
			results := apply(t, f, index, int64(index), txs...)
			for i, x := range txs {
				next, ok := modelTransact(t, model, index, x)
				if ok != (results[i] == nil) {
					rt.Fatalf("entry %d, transaction %d: %v, the model says %v", index, i, results[i], ok)
				}
				model = next
			}
			r, err := f.read()
			if err != nil {
				rt.Fatal(err)
			}
			compare(rt, r, model)
		}
		roundTrip(rt, f, model)
	})
}

func modelTransact(t testing.TB, model map[string]*testpb.Thing, index uint64, x *raftstorepb.Transaction) (map[string]*testpb.Thing, bool) {
	next, seen := maps.Clone(model), map[string]bool{}
	for _, op := range x.Ops {
		old, exists := model[op.Id]
		if seen[op.Id] {
			return model, false
		}
		seen[op.Id] = true
		if old.GetMeta().GetVersion() != op.ExpectVersion || (op.Object == nil && !exists) {
			return model, false
		}
		if op.Object == nil {
			delete(next, op.Id)
			continue
		}
		o := &testpb.Thing{}
		if err := proto.Unmarshal(op.Object, o); err != nil {
			t.Fatal(err)
		}
		o.Meta = &raftstorepb.Meta{Version: index, CreatedAt: int64(index), UpdatedAt: int64(index)}
		if exists {
			o.Meta.CreatedAt = old.Meta.CreatedAt
		}
		next[op.Id] = o
	}
	names := map[string]bool{}
	for _, o := range next {
		if o.Name != "" && names[o.Name] {
			return model, false
		}
		names[o.Name] = true
	}
	return next, true
}

// compare looks at every object by id, through every index, and at the sums.
func compare(rt *rapid.T, r *ReadTx, model map[string]*testpb.Thing) {
	byName, byLabel := map[string][]string{}, map[string][]string{}
	sums := map[string]Amounts{}
	for _, id := range slices.Sorted(maps.Keys(model)) {
		o := model[id]
		got, ok := things.Get(r, id)
		if !ok || !proto.Equal(got, o) {
			rt.Fatalf("%s is %v, want %v", id, got, o)
		}
		byName[o.Name] = append(byName[o.Name], id)
		byLabel[o.Labels[0]] = append(byLabel[o.Labels[0]], id)
		sums[o.Labels[0]] = sums[o.Labels[0]].plus(Amounts{1, int64(len(o.Name))}, 1)
	}
	if n := things.Count(r); n != len(model) {
		rt.Fatalf("%d objects, want %d", n, len(model))
	}
	if got := maps.Collect(things.Totals(r, "label", "")); !maps.Equal(got, sums) {
		rt.Fatalf("sums are %v, want %v", got, sums)
	}
	if got := things.Total(r, "all", "things"); got != (Amounts{2: int64(len(model))}) {
		rt.Fatalf("of %d objects %v count", len(model), got)
	}
	for _, k := range []string{"x", "y", "z"} {
		if got := idsOf(things.By(r, "name", k)); !slices.Equal(got, byName[k]) {
			rt.Fatalf("name %s: %v, want %v", k, got, byName[k])
		}
		if got := idsOf(things.By(r, "label", k+"l")); !slices.Equal(got, byLabel[k+"l"]) {
			rt.Fatalf("label %s: %v, want %v", k, got, byLabel[k+"l"])
		}
	}
}

func idsOf(seq func(func(*testpb.Thing) bool)) (out []string) {
	for o := range seq {
		out = append(out, o.GetId())
	}
	return out
}

// roundTrip restores a snapshot of f into another state machine, whose watches
// must learn of it.
func roundTrip(rt *rapid.T, f *fsm, model map[string]*testpb.Thing) {
	r, err := f.read()
	if err != nil {
		rt.Fatal(err)
	}
	var buf bytes.Buffer
	if err := writeSnapshot(&buf, f.order, &r.r); err != nil {
		rt.Fatal(err)
	}
	g, err := newFSM([]Registered{things}, func(error) {})
	if err != nil {
		rt.Fatal(err)
	}
	_, w, err := g.watch([]Registered{things})
	if err != nil {
		rt.Fatal(err)
	}
	if err := g.Restore(io.NopCloser(bytes.NewReader(buf.Bytes()))); err != nil {
		rt.Fatal(err)
	}
	if w.err != ErrLagged {
		rt.Fatalf("the watch says %v", w.err)
	}
	r2, err := g.read()
	if err != nil {
		rt.Fatal(err)
	}
	if r2.Index() != r.Index() || !r2.Clock().Equal(r.Clock()) {
		rt.Fatal("index or clock were not restored")
	}
	compare(rt, r2, model)
	cut := buf.Bytes()[:rapid.IntRange(0, buf.Len()-1).Draw(rt, "cut")]
	if err := g.Restore(io.NopCloser(bytes.NewReader(cut))); err == nil {
		rt.Fatal("a snapshot that was cut off is restored")
	}
	if err := g.Restore(io.NopCloser(bytes.NewReader(buf.Bytes()))); err == nil {
		rt.Fatal("a halted state machine takes another snapshot")
	}
}
